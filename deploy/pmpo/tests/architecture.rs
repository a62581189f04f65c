//! The invariants of README.md's architecture section that the dependency graph can show.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Our crates and what each depends on, development dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let normal = |package: &cargo_metadata::Package| {
        let kept = package
            .dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development);
        kept.map(|dependency| dependency.name.clone()).collect()
    };
    metadata
        .packages
        .iter()
        .map(|p| (p.name.to_string(), normal(p)))
        .collect()
}

const SERVICES: [&str; 3] = ["pmpo-actor", "pmpo-learner", "pmpo-replay"];
const PURE: [&str; 5] = [
    "pmpo-types",
    "pmpo-suite",
    "pmpo-replay-core",
    "pmpo-policy",
    "pmpo-losses",
];

#[test]
fn leaves_depend_on_types_at_most() {
    let dependencies = dependencies();
    for leaf in PURE {
        let ours: Vec<_> = dependencies[leaf]
            .iter()
            .filter(|name| name.starts_with("pmpo"))
            .collect();
        let allowed = leaf != "pmpo-types" && ours == ["pmpo-types"];
        assert!(ours.is_empty() || allowed, "{leaf} depends on {ours:?}");
    }
}

#[test]
fn services_never_depend_on_each_other_and_only_deploy_sees_all() {
    for (name, needs) in dependencies() {
        if name == "pmpo" {
            continue;
        }
        let services: Vec<_> = SERVICES.iter().filter(|s| needs.contains(**s)).collect();
        assert!(services.is_empty(), "{name} depends on {services:?}");
    }
}

#[test]
fn heavy_libraries_have_one_home() {
    let homes: [(&str, &[&str]); 4] = [
        ("mujoco-rs", &["pmpo-suite"]),
        ("burn", &["pmpo-learner", "pmpo-losses"]),
        (
            "tonic",
            &[
                "pmpo",
                "pmpo-actor",
                "pmpo-learner",
                "pmpo-proto",
                "pmpo-replay",
                "pmpo-replay-client",
                "pmpo-service",
            ],
        ),
        (
            "tokio",
            &[
                "pmpo",
                "pmpo-actor",
                "pmpo-learner",
                "pmpo-replay",
                "pmpo-replay-client",
                "pmpo-service",
            ],
        ),
    ];
    let dependencies = dependencies();
    for (library, allowed) in homes {
        let users: BTreeSet<_> = dependencies
            .iter()
            .filter(|(_, needs)| needs.contains(library))
            .map(|(name, _)| name.as_str())
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        assert!(
            users.is_subset(&allowed),
            "{library} is used by {users:?}, allowed {allowed:?}"
        );
        assert!(
            !users.is_empty(),
            "{library} is used by nobody: the rule is out of date"
        );
    }
}

#[test]
fn the_features_for_gpus_are_the_learners_alone() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    for feature in ["cuda", "vulkan"] {
        let with_feature: BTreeSet<_> = metadata
            .packages
            .iter()
            .filter(|package| package.features.contains_key(feature))
            .map(|package| package.name.to_string())
            .collect();
        // The command only passes it on.
        assert_eq!(
            with_feature,
            BTreeSet::from(["pmpo".to_owned(), "pmpo-learner".to_owned()])
        );
    }
}
