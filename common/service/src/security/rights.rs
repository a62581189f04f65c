//! What each role may call: the one table of it. What is not in it is for operators alone.

use super::Role;

/// Who may call a method; operators may call all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Whoever got as far as speaking HTTP/2.
    Anybody,
    /// Every role.
    EveryRole,
    /// These.
    Roles(&'static [Role]),
}

impl Callers {
    pub(crate) fn include(self, role: Role) -> bool {
        match self {
            Self::Anybody | Self::EveryRole => true,
            Self::Roles(roles) => role == Role::Admin || roles.contains(&role),
        }
    }
}

/// A method.
#[derive(Debug)]
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    pub(crate) callers: Callers,
    /// One request and one answer, which waits for nothing.
    pub(crate) unary: bool,
}

use Callers::{Anybody, EveryRole, Roles};
use Role::{Actor, Evaluator, Learner, Sampler, Writer};

const fn unary(path: &'static str, callers: Callers) -> Method {
    Method {
        path,
        callers,
        unary: true,
    }
}

const fn stream(path: &'static str, callers: Callers) -> Method {
    Method {
        path,
        callers,
        unary: false,
    }
}

/// The replay's protocol knows writers and samplers; of a run's processes, its actors and its learner are.
const WRITERS: [Role; 2] = [Writer, Actor];
const SAMPLERS: [Role; 2] = [Sampler, Learner];

const METHODS: [Method; 25] = [
    stream("/pmpo.replay.v1.Replay/Insert", Roles(&WRITERS)),
    stream("/pmpo.replay.v1.Replay/Sample", Roles(&SAMPLERS)),
    unary("/pmpo.replay.v1.Replay/UpdatePriorities", Roles(&SAMPLERS)),
    unary(
        "/pmpo.replay.v1.Replay/ListTables",
        Roles(&[Writer, Actor, Sampler, Learner]),
    ),
    unary("/pmpo.replay.v1.Replay/DeleteItems", Roles(&[])),
    unary("/pmpo.replay.v1.Replay/ResetTable", Roles(&[])),
    unary("/pmpo.replay.v1.Replay/ListWriters", Roles(&[])),
    unary("/pmpo.replay.v1.Replay/ConfigureTable", Roles(&[])),
    unary("/pmpo.replay.v1.Replay/CreateTable", Roles(&[Learner])),
    unary("/pmpo.replay.v1.Replay/Checkpoint", Roles(&[])),
    stream("/pmpo.v1.Weights/Subscribe", Roles(&[Actor, Evaluator])),
    stream("/pmpo.v1.Language/GetModel", Roles(&[Actor])),
    stream("/pmpo.v1.Language/SubscribeWeights", Roles(&[Actor])),
    unary("/pmpo.v1.Environment/Wanted", Roles(&[Actor])),
    unary("/pmpo.v1.Environment/Describe", Roles(&[Actor])),
    stream("/pmpo.v1.Run/Join", Roles(&[Actor, Evaluator])),
    unary("/pmpo.v1.Run/GetRun", Roles(&[Actor, Evaluator])),
    unary("/pmpo.v1.Run/GetStatus", EveryRole),
    unary("/pmpo.v1.Run/ReportEpisode", Roles(&[Actor])),
    unary("/pmpo.v1.Run/ReportEvaluation", Roles(&[Evaluator])),
    unary("/grpc.health.v1.Health/Check", Anybody),
    unary("/grpc.health.v1.Health/List", Anybody),
    stream("/grpc.health.v1.Health/Watch", EveryRole),
    stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        EveryRole,
    ),
    stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        EveryRole,
    ),
];

/// The method at `path`, if it is known.
pub(crate) fn method(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Paths of all methods in the protocol's files.
    fn protocol() -> BTreeSet<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/proto/pmpo");
        let files = ["v1", "replay/v1"].map(|package| format!("{folder}/{package}"));
        let files = files.map(|folder| std::fs::read_dir(folder).unwrap());
        let mut paths = BTreeSet::new();
        for file in files.into_iter().flatten() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let (mut package, mut service) = ("", "");
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("package ") {
                    package = rest.trim_end_matches(';');
                } else if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.trim_end_matches('{').trim();
                } else if let Some(rest) = line.strip_prefix("rpc ") {
                    let method = rest.split('(').next().unwrap().trim();
                    let unary = !rest.contains("stream ");
                    let path = format!("/{package}.{service}/{method}");
                    let known = super::method(&path);
                    assert!(
                        known.is_none_or(|known| known.unary == unary),
                        "{path}: unary is {unary}"
                    );
                    paths.insert(path);
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_of_the_protocol_has_its_callers() {
        let ours = METHODS.iter().map(|method| method.path.to_owned());
        let ours: BTreeSet<_> = ours.filter(|path| path.starts_with("/pmpo.")).collect();
        assert_eq!(protocol(), ours);
    }

    #[test]
    fn roles_may_do_their_own_work_and_no_more() {
        let may = |role: Role| {
            let allowed = METHODS
                .iter()
                .filter(|method| method.path.starts_with("/pmpo.") && method.callers.include(role));
            let names = allowed.map(|method| method.path.rsplit('/').next().unwrap());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            may(Role::Actor),
            "Insert ListTables Subscribe GetModel SubscribeWeights Wanted Describe Join GetRun GetStatus \
             ReportEpisode"
        );
        assert_eq!(may(Role::Writer), "Insert ListTables GetStatus");
        assert_eq!(
            may(Role::Sampler),
            "Sample UpdatePriorities ListTables GetStatus"
        );
        assert_eq!(
            may(Role::Evaluator),
            "Subscribe Join GetRun GetStatus ReportEvaluation"
        );
        assert_eq!(
            may(Role::Learner),
            "Sample UpdatePriorities ListTables CreateTable GetStatus"
        );
        assert_eq!(may(Role::Replay), "GetStatus");
        assert_eq!(may(Role::Admin).split(' ').count(), 20);
        assert!(method("/pmpo.v1.Weights/Publish").is_none());
    }
}
