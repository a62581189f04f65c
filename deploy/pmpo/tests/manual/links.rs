//! Links in README.md, CONTRIBUTING.md, CHANGELOG.md and `docs/`: the file or the heading that each names is
//! there. Only links within the repository are followed; addresses of the world are not asked for.
//!
//! Headings get their anchors as GitHub and mdBook agree on them: lower case, spaces as dashes, of
//! other marks `-` and `_` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The folder that `make docs` makes a book of.
const BOOK: &str = "docs";
const SUMMARY: &str = "docs/SUMMARY.md";
const PAGES_BESIDE: [&str; 3] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// A page's headings, as anchors, and where it links to.
#[derive(Debug, Default, PartialEq)]
struct Page {
    anchors: BTreeSet<String>,
    targets: Vec<String>,
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.targets.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.extend(heading.take().as_deref().map(anchor));
                }
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// `from`'s folder and `path`, without `.` and `..`; `None` above the root.
fn joined(from: &Path, path: &str) -> Option<PathBuf> {
    let mut joined = PathBuf::new();
    let folder = from.parent().unwrap_or(Path::new(""));
    for component in folder.join(path).components() {
        match component {
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(joined)
}

fn markdown_under(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(root.join(folder)).expect("a folder");
    for entry in entries {
        let name = entry.expect("an entry").file_name();
        let path = folder.join(name);
        if root.join(&path).is_dir() {
            markdown_under(root, &path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

fn pages(root: &Path) -> BTreeMap<PathBuf, Page> {
    let mut files: Vec<PathBuf> = PAGES_BESIDE.map(PathBuf::from).into();
    markdown_under(root, Path::new(BOOK), &mut files);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root.join(&path)).expect("a page");
        let page = Page::read(&text);
        (path, page)
    };
    files.into_iter().map(read).collect()
}

/// What is wrong with a link of the page `from`.
fn fault(
    root: &Path,
    pages: &BTreeMap<PathBuf, Page>,
    from: &Path,
    target: &str,
) -> Option<&'static str> {
    if target.contains("://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() {
        Some(from.to_owned())
    } else {
        joined(from, path)
    };
    let Some(path) = path else {
        return Some("leads out of the repository");
    };
    if from.starts_with(BOOK) && !path.starts_with(BOOK) {
        return Some("leads out of the book");
    }
    let there = root.join(&path);
    if !there.is_file() {
        return Some("no such file");
    }
    if anchor.is_empty() {
        return None;
    }
    let found = pages
        .get(&path)
        .is_some_and(|page| page.anchors.contains(anchor));
    (!found).then_some("no such heading")
}

/// All that is wrong with the pages under `root`, a line each.
fn problems(root: &Path) -> Vec<String> {
    let pages = pages(root);
    let mut problems = Vec::new();
    for (from, page) in &pages {
        for target in &page.targets {
            if let Some(fault) = fault(root, &pages, from, target) {
                problems.push(format!("{}: ({target}): {fault}", from.display()));
            }
        }
    }
    let summary = &pages[Path::new(SUMMARY)].targets;
    let listed: Vec<_> = summary
        .iter()
        .filter_map(|target| joined(Path::new(SUMMARY), target))
        .collect();
    let in_book = pages
        .keys()
        .filter(|path| path.starts_with(BOOK) && *path != Path::new(SUMMARY));
    for path in in_book {
        let times = listed.iter().filter(|listed| *listed == path).count();
        if times != 1 {
            problems.push(format!("{}: {times} times in {SUMMARY}", path.display()));
        }
    }
    problems
}

#[test]
fn links_lead_somewhere_and_pages_are_in_the_summary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found: usize = pages(&root).values().map(|page| page.targets.len()).sum();
    assert!(found > 100, "{found} links");
    let problems = problems(&root);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn what_is_wrong_is_found() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "README.md",
        "[a](docs/a.md#two-words) [b](docs/b.md) [c](docs)",
    );
    write(
        "CONTRIBUTING.md",
        "`[code](no.md)`\n```\n[code](no.md)\n```\n",
    );
    write(
        "CHANGELOG.md",
        "[up](../up.md) [world](https://example.org)",
    );
    write(SUMMARY, "- [A](a.md)\n- [A again](a.md)\n");
    write(
        "docs/a.md",
        "# A\n\n## Two `words`!\n[own](#a) [none](#b) [out](../README.md)\n```\n# C\n```\n[c](#c)",
    );
    write("docs/deep/d.md", "![picture](../a.md) ![none](e.svg)");
    let expected = [
        "CHANGELOG.md: (../up.md): leads out of the repository",
        "README.md: (docs/b.md): no such file",
        "README.md: (docs): no such file",
        "docs/a.md: (#b): no such heading",
        "docs/a.md: (../README.md): leads out of the book",
        "docs/a.md: (#c): no such heading",
        "docs/deep/d.md: (e.svg): no such file",
        "docs/a.md: 2 times in docs/SUMMARY.md",
        "docs/deep/d.md: 0 times in docs/SUMMARY.md",
    ];
    assert_eq!(problems(root.path()), expected);
}
