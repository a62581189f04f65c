//! The invariants of docs/explanation/architecture.md that the dependency graph can show.

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

const SERVICES: [&str; 4] = [
    "pmpo-actor",
    "pmpo-generator",
    "pmpo-learner",
    "pmpo-replay",
];
/// Crates without a socket, a runtime or a service, and those of ours that each may build on.
const PURE: [(&str, &[&str]); 9] = [
    ("pmpo-types", &[]),
    ("pmpo-kernels", &[]),
    ("pmpo-data", &["pmpo-types"]),
    ("pmpo-language", &["pmpo-kernels", "pmpo-types"]),
    ("pmpo-suite", &["pmpo-types"]),
    ("pmpo-replay-core", &["pmpo-types"]),
    ("pmpo-policy", &["pmpo-kernels", "pmpo-types"]),
    ("pmpo-losses", &["pmpo-kernels", "pmpo-types"]),
    (
        "pmpo-update",
        &["pmpo-kernels", "pmpo-losses", "pmpo-policy", "pmpo-types"],
    ),
];

/// What makes a crate a service, or draws pictures: not for those of [`PURE`].
const OF_SERVICES: [&str; 7] = [
    "tokio",
    "tokio-util",
    "tonic",
    "prost",
    "plotters",
    "metrics",
    "tracing",
];

#[test]
fn pure_crates_build_on_each_other_alone() {
    let dependencies = dependencies();
    for (name, allowed) in PURE {
        let needs = &dependencies[name];
        let ours = needs.iter().filter(|need| need.starts_with("pmpo"));
        let refused: Vec<_> = ours
            .filter(|need| !allowed.contains(&need.as_str()))
            .chain(
                needs
                    .iter()
                    .filter(|need| OF_SERVICES.contains(&need.as_str())),
            )
            .collect();
        assert!(refused.is_empty(), "{name} depends on {refused:?}");
    }
}

#[test]
fn services_never_depend_on_each_other_and_only_deploy_sees_all() {
    for (name, needs) in dependencies() {
        // The package for Python is the command with another door.
        if name == "pmpo" || name == "pmpo-python" {
            continue;
        }
        let services: Vec<_> = SERVICES.iter().filter(|s| needs.contains(**s)).collect();
        assert!(services.is_empty(), "{name} depends on {services:?}");
    }
}

#[test]
fn heavy_libraries_have_one_home() {
    let homes: [(&str, &[&str]); 7] = [
        ("mujoco-rs", &["pmpo-suite"]),
        (
            "burn",
            &[
                "pmpo-bandit",
                "pmpo-kernels",
                "pmpo-language",
                "pmpo-losses",
                "pmpo-update",
            ],
        ),
        ("hdf5-pure", &["pmpo-data"]),
        ("parquet", &["pmpo-data"]),
        ("plotters", &["pmpo-figures"]),
        (
            "tonic",
            &[
                "pmpo",
                "pmpo-actor",
                "pmpo-generator",
                "pmpo-learner",
                "pmpo-proto",
                "pmpo-python",
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
                "pmpo-generator",
                "pmpo-learner",
                "pmpo-python",
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
fn the_features_for_gpus_are_the_updates_alone() {
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
        // The learner and the command only pass it on.
        let expected = ["pmpo", "pmpo-learner", "pmpo-update"];
        assert_eq!(with_feature, expected.map(str::to_owned).into());
    }
}

/// `println!` and its like panic where nobody reads or a disk is full; see the command's `output`.
#[test]
fn nothing_that_runs_prints_with_macros_that_panic() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let folders = metadata.packages.iter().map(|package| {
        let folder = package.manifest_path.parent().expect("a folder");
        folder.join("src").into_std_path_buf()
    });
    let mut open: Vec<std::path::PathBuf> = folders.collect();
    let mut looked_at = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let printing = ["println!(", "print!("]
            .iter()
            .any(|macro_| text.contains(macro_));
        assert!(!printing, "{} prints", path.display());
        looked_at += 1;
    }
    assert!(looked_at > 100, "{looked_at} files");
}
