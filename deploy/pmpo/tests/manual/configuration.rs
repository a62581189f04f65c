//! The reference of the configuration: keys and values as `pmpo config print` has them, and what each key is
//! as its docstring says. A key without a docstring, or a docstring without a key, fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use syn::{Fields, GenericArgument, ItemEnum, PathArguments, Type, Variant};

use crate::reference::pmpo;
use crate::source::{Configured, configured_types, doc, serde};

/// What a kind wants of other keys, to be valid.
const COMPANIONS: [(&str, &[&str]); 8] = [
    (
        "policy.head.kind=categorical",
        &["update.policy_loss.kl.kind=joint"],
    ),
    (
        "update.candidates.kind=refined",
        &["policy.head.tanh_mean=false", "policy.head.squash=true"],
    ),
    (
        "update.policy_loss.kl.kind=behaviour",
        &["update.candidates.kind=data"],
    ),
    (
        "update.priorities.kind=td_error",
        &["replay.table.sampler=prioritized"],
    ),
    ("lm.reward.kind=length", &["lm.reward.target_words=20"]),
    (
        "lm.reward.kind=http",
        &["lm.reward.url=\"http://judge:5000\""],
    ),
    ("lm.reward.kind=model", &["lm.reward.path=\"reward\""]),
    ("lm.reward.kind=command", &["lm.reward.command=[\"judge\"]"]),
];

/// The section of language models.
const LANGUAGE: &str = "lm";

/// The keys of a table, with the kinds that must have been chosen for them to be there.
struct Section {
    path: String,
    kinds: Vec<String>,
    is: String,
    keys: Vec<Key>,
}

struct Key {
    path: String,
    is: String,
    /// It may have no value.
    optional: bool,
}

struct Walk {
    types: BTreeMap<String, Vec<Configured>>,
    sections: Vec<Section>,
}

impl Walk {
    /// The one type of this name, if any is read from a configuration.
    fn named(&self, name: &str) -> Option<&Configured> {
        let found = self.types.get(name)?;
        assert_eq!(found.len(), 1, "several types {name}: which is meant?");
        found.first()
    }

    /// Appends the table `path` with these fields, and the tables within it.
    fn table(&mut self, path: &str, kinds: &[String], is: String, fields: &Fields) {
        let mut section = Section {
            path: path.to_owned(),
            kinds: kinds.to_owned(),
            is,
            keys: Vec::new(),
        };
        let mut within = Vec::new();
        for field in fields {
            if serde(&field.attrs, "skip").is_some() {
                continue;
            }
            let name = field.ident.as_ref().expect("a name").to_string();
            let path = joined(path, &name);
            let is = doc(&field.attrs);
            assert!(!is.is_empty(), "{path} has no docstring");
            let (type_, optional) = innermost(&field.ty);
            match self.named(&type_) {
                Some(Configured::Struct(inner)) if !optional => {
                    within.push((path, is, inner.fields.clone(), None));
                }
                Some(Configured::Enum(inner)) if serde(&inner.attrs, "tag").is_some() => {
                    section.keys.push(Key {
                        path: joined(&path, "kind"),
                        is: format!("{is} {}", choices(inner)),
                        optional: false,
                    });
                    for variant in &inner.variants {
                        let kind = format!("{path}.kind={}", variant_name(inner, variant));
                        let fields = self.payload(variant);
                        within.push((path.clone(), doc(&variant.attrs), fields, Some(kind)));
                    }
                }
                Some(Configured::Enum(inner)) if is_closed_set(inner) => section.keys.push(Key {
                    path,
                    is: format!("{is} {}", choices(inner)),
                    optional,
                }),
                _ => section.keys.push(Key { path, is, optional }),
            }
        }
        self.sections.push(section);
        for (path, is, fields, kind) in within {
            let kinds: Vec<String> = kinds.iter().cloned().chain(kind).collect();
            self.table(&path, &kinds, is, &fields);
        }
    }

    /// The keys of a kind.
    fn payload(&self, variant: &Variant) -> Fields {
        let Fields::Unnamed(fields) = &variant.fields else {
            return variant.fields.clone();
        };
        let (name, _) = innermost(&fields.unnamed[0].ty);
        match self.named(&name) {
            Some(Configured::Struct(inner)) => inner.fields.clone(),
            _ => panic!("{name}: expected a struct"),
        }
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}.{name}")
}

/// The name of the type, or of what is in an `Option` or a `Vec` of it, and whether it is in one.
fn innermost(type_: &Type) -> (String, bool) {
    let Type::Path(path) = type_ else {
        return (String::new(), false);
    };
    let last = path.path.segments.last().expect("a name");
    let name = last.ident.to_string();
    if let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        return (innermost(inner).0, true);
    }
    (name, false)
}

fn is_closed_set(set: &ItemEnum) -> bool {
    set.variants
        .iter()
        .all(|variant| matches!(variant.fields, Fields::Unit))
}

fn variant_name(set: &ItemEnum, variant: &Variant) -> String {
    if let Some(name) = serde(&variant.attrs, "rename") {
        return name;
    }
    let rule = serde(&set.attrs, "rename_all");
    assert_eq!(rule.as_deref(), Some("snake_case"), "{}", set.ident);
    let mut name = String::new();
    for c in variant.ident.to_string().chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    name
}

fn choices(set: &ItemEnum) -> String {
    let choices = set.variants.iter().map(|variant| {
        let name = variant_name(set, variant);
        format!("`{name}`: {}", doc(&variant.attrs))
    });
    choices.collect::<Vec<_>>().join(" ")
}

fn sections() -> Vec<Section> {
    let mut walk = Walk {
        types: configured_types(),
        sections: Vec::new(),
    };
    let Some(Configured::Struct(all)) = walk.named("Config") else {
        panic!("Config: expected a struct");
    };
    let Fields::Named(all) = all.fields.clone() else {
        panic!("Config: expected named fields");
    };
    for field in all.named {
        let name = field.ident.as_ref().expect("a name").to_string();
        let (type_, _) = innermost(&field.ty);
        let Some(Configured::Struct(section)) = walk.named(&type_) else {
            panic!("{name}: expected a struct");
        };
        let (is, fields) = (doc(&section.attrs), section.fields.clone());
        walk.table(&name, &[], is, &fields);
    }
    let Some(Configured::Struct(language)) = walk.named("LmConfig") else {
        panic!("LmConfig: expected a struct");
    };
    let (is, fields) = (doc(&language.attrs), language.fields.clone());
    walk.table(LANGUAGE, &[], is, &fields);
    walk.sections
}

/// Whether a key is one of language models' runs, which have a configuration of their own.
fn of_language(path: &str) -> bool {
    path.split('.').next() == Some(LANGUAGE)
}

/// What else a kind is to be given.
fn companions(kind: &str) -> &'static [&'static str] {
    let found = COMPANIONS.iter().find(|(of, _)| *of == kind);
    found.map_or(&[], |(_, companions)| companions)
}

/// What `pmpo config print`, or `pmpo lm config`, says with these kinds.
fn printed(language: bool, kinds: &[String]) -> toml::Value {
    let mut arguments = match language {
        true => vec!["lm", "config"],
        false => vec!["config", "print"],
    };
    for kind in kinds {
        for assignment in companions(kind).iter().copied().chain([kind.as_str()]) {
            arguments.extend(["--set", assignment]);
        }
    }
    toml::from_str(&pmpo(&arguments)).expect("TOML")
}

fn value<'a>(all: &'a toml::Value, path: &str) -> Option<&'a toml::Value> {
    path.split('.').try_fold(all, |value, name| value.get(name))
}

/// The paths of all keys with a value.
fn leaves(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    let Some(table) = value.as_table() else {
        found.insert(path.to_owned());
        return;
    };
    for (name, value) in table {
        leaves(value, &joined(path, name), found);
    }
}

/// The page's generated part.
pub(crate) fn text() -> String {
    let mut text = String::new();
    for section in sections() {
        let printed = printed(of_language(&section.path), &section.kinds);
        let level = if section.path.contains('.') {
            "###"
        } else {
            "##"
        };
        let kind = section.kinds.last().filter(|kind| {
            let (of, _) = kind.split_once(".kind=").expect("a kind");
            of == section.path
        });
        let title = kind.map_or(format!("[{}]", section.path), |kind| {
            kind.replace('=', " = ")
        });
        write!(text, "{level} `{title}`\n\n{}\n\n", section.is).expect("a string");
        if section.keys.is_empty() {
            continue;
        }
        text.push_str("| key | default | is |\n|---|---|---|\n");
        for key in section.keys {
            let value = value(&printed, &key.path);
            assert!(value.is_some() || key.optional, "{} has no value", key.path);
            let given = section.kinds.iter().flat_map(|kind| companions(kind));
            let value = match given
                .map(|given| given.split('=').next())
                .any(|of| of == Some(&key.path))
            {
                true => "to be given".to_owned(),
                false => value.map_or("not set".to_owned(), |value| format!("`{value}`")),
            };
            let is = key.is.replace('|', "\\|");
            writeln!(text, "| `{}` | {value} | {is} |", key.path).expect("a string");
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_key_that_is_printed_is_described() {
    let mut printed_keys = BTreeSet::new();
    leaves(&printed(false, &[]), "", &mut printed_keys);
    let language = printed(true, &[]);
    leaves(&language[LANGUAGE], LANGUAGE, &mut printed_keys);
    let sections = sections();
    let described: BTreeSet<String> = sections
        .into_iter()
        .flat_map(|section| section.keys)
        .map(|key| key.path)
        .collect();
    let missing: Vec<_> = printed_keys.difference(&described).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(printed_keys.len() > 80, "{}", printed_keys.len());
}
