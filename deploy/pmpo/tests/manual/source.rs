//! What the source says of configuration, metrics and the protocol: docstrings are not there at run time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, Item, ItemEnum, ItemStruct, Lit};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A type that is read from a configuration.
pub(crate) enum Configured {
    Struct(ItemStruct),
    Enum(ItemEnum),
}

/// Types that derive `Deserialize`, by name, in all of the workspace's libraries.
pub(crate) fn configured_types() -> BTreeMap<String, Vec<Configured>> {
    let mut types: BTreeMap<String, Vec<Configured>> = BTreeMap::new();
    for path in sources() {
        for item in items(&path) {
            let (name, attributes, found) = match item {
                Item::Struct(item) => {
                    let (name, attributes) = (item.ident.to_string(), item.attrs.clone());
                    (name, attributes, Configured::Struct(item))
                }
                Item::Enum(item) => {
                    let (name, attributes) = (item.ident.to_string(), item.attrs.clone());
                    (name, attributes, Configured::Enum(item))
                }
                _ => continue,
            };
            if derives_deserialize(&attributes) {
                types.entry(name).or_default().push(found);
            }
        }
    }
    types
}

/// The metrics that the file's constants name, each with what it is.
pub(crate) fn metrics(path: &Path) -> Vec<(String, String)> {
    let constants = items(path).into_iter().filter_map(|item| match item {
        Item::Const(constant) => Some(constant),
        _ => None,
    });
    let named = constants.filter_map(|constant| {
        let name = text_of(&constant.expr)?;
        let named = name.starts_with("pmpo_") || name.starts_with("process_");
        named.then(|| (name, doc(&constant.attrs)))
    });
    named.collect()
}

/// The docstring as one line, links to items without their targets.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        if !attribute.path().is_ident("doc") {
            return None;
        }
        let value = &attribute.meta.require_name_value().ok()?.value;
        Some(text_of(value)?.trim().to_owned())
    });
    let line = lines.collect::<Vec<_>>().join(" ");
    without_item_links(line.trim())
}

/// `` [`Name`](path::Name) `` and `` [`Name`] `` as `` `Name` ``.
fn without_item_links(line: &str) -> String {
    let mut rest = line;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once("[`") {
        let (name, behind) = after.split_once("`]").expect("a link to an item ends");
        plain.push_str(&format!("{before}`{name}`"));
        rest = match behind.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a link's target ends").1,
            None => behind,
        };
    }
    plain + rest
}

/// The text of a serde attribute such as `tag = "kind"`, or the empty text of one without a value.
pub(crate) fn serde(attributes: &[Attribute], key: &str) -> Option<String> {
    let mut found = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("serde")) {
        let read = attribute.parse_nested_meta(|meta| {
            let value = match meta.value() {
                Ok(value) => text_of(&value.parse()?).unwrap_or_default(),
                Err(_) => String::new(),
            };
            if meta.path.is_ident(key) {
                found = Some(value);
            }
            Ok(())
        });
        read.expect("serde's attributes");
    }
    found
}

fn derives_deserialize(attributes: &[Attribute]) -> bool {
    let mut derives = false;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("derive")) {
        let read = attribute.parse_nested_meta(|meta| {
            derives |= meta.path.is_ident("Deserialize");
            Ok(())
        });
        read.expect("a list of traits");
    }
    derives
}

fn text_of(expression: &Expr) -> Option<String> {
    let Expr::Lit(literal) = expression else {
        return None;
    };
    let Lit::Str(text) = &literal.lit else {
        return None;
    };
    Some(text.value())
}

fn items(path: &Path) -> Vec<Item> {
    let text = std::fs::read_to_string(path).expect("a source file");
    let file = syn::parse_file(&text);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .items
}

/// All Rust files of the libraries and the command.
fn sources() -> Vec<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let folders = metadata.packages.iter().map(|package| {
        let folder = package.manifest_path.parent().expect("a folder");
        folder.join("src").into_std_path_buf()
    });
    let mut open: Vec<PathBuf> = folders.collect();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn docstrings_lose_their_links_to_items() {
    let cases = [
        (
            "Where a [`Writer`](crate::Writer) inserts.",
            "Where a `Writer` inserts.",
        ),
        ("and [`STEPS`] where [a] is", "and `STEPS` where [a] is"),
    ];
    for (line, expected) in cases {
        assert_eq!(without_item_links(line), expected);
    }
}
