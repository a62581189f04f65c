//! What is written is read again, by whichever way it went.

mod common;

use std::fs;
use std::path::Path;

use common::{about, episode, into_arrow, read, rows, spec, write, write_d4rl};
use pmpo_data::{DataSet, Episode, Format, Writer, export, import, relabel};
use pmpo_types::{EnvironmentSpec, ObservationField};

#[test]
fn our_own_format_keeps_every_bit() {
    let folder = tempfile::tempdir().unwrap();
    for labelled in [false, true] {
        let path = folder.path().join(format!("{labelled}-v3"));
        let episodes = write(&path, labelled);
        let data = DataSet::open(&path).unwrap();
        assert_eq!((data.spec(), data.about()), (&spec(), about()));
        assert_eq!((data.len(), data.steps()), (5, 2 + 3 + 4 + 5 + 6));
        assert_eq!(
            (data.is_labelled(), data.layout()),
            (labelled, "Minari, Parquet")
        );
        assert_eq!(read(&path), episodes);
        // The folder that Minari calls `data` is as good.
        assert_eq!(read(&path.join("data")), episodes);
    }
}

#[test]
fn the_same_in_arrow_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let episodes = write(&path, true);
    into_arrow(&path);
    let data = DataSet::open(&path).unwrap();
    assert_eq!((data.layout(), data.is_labelled()), ("Minari, Arrow", true));
    assert_eq!(read(&path), episodes);
    let error = relabel(&path, |_, episode| vec![None; episode.steps()]).unwrap_err();
    let expected = "layout: expected one that keeps labels: import it first, which writes Minari's in Parquet, \
                    got Minari, Arrow";
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn d4rl_s_flat_file_is_cut_into_episodes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopper-medium.hdf5");
    let episodes: Vec<_> = (0..5).map(|index| episode(index, false)).collect();
    write_d4rl(&path, &episodes);
    let data = DataSet::open(&path).unwrap();
    assert_eq!((data.len(), data.steps(), data.layout()), (5, 20, "D4RL"));
    assert_eq!(data.spec().task, "hopper-medium");
    assert_eq!(read(&path), episodes);
}

#[test]
fn an_observation_without_a_name_is_an_array() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data-set");
    let spec = EnvironmentSpec {
        observation: vec![ObservationField {
            name: "observation".to_owned(),
            size: 6,
        }],
        ..spec()
    };
    let mut writer = Writer::create(&path, &spec, &about()).unwrap();
    writer.push(&episode(0, false)).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&path), [episode(0, false)]);
    let metadata = fs::read_to_string(path.join("data/metadata.json")).unwrap();
    assert!(
        metadata.contains(r#""observation_space":"{\"type\": \"Box\""#),
        "{metadata}"
    );
    assert!(
        metadata.contains(r#""dataset_id":"data-set-v0""#),
        "{metadata}"
    );
}

/// The observation after the last action has no place in LeRobot's layout, and rewards are f32 there.
#[test]
fn lerobot_s_layout_keeps_what_it_has_a_place_for() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs, again] = ["a", "b", "c"].map(|name| folder.path().join(name));
    for labelled in [false, true] {
        let episodes = write(&ours, labelled);
        export(&DataSet::open(&ours).unwrap(), &theirs, Format::LeRobot).unwrap();
        let data = DataSet::open(&theirs).unwrap();
        assert_eq!((data.spec(), data.layout()), (&spec(), "LeRobot v3"));
        assert_eq!((data.steps(), data.is_labelled()), (20, labelled));
        let expected: Vec<Episode> = episodes.into_iter().map(without_end).collect();
        assert_eq!(read(&theirs), expected);
        import(&theirs, &again).unwrap();
        assert_eq!(read(&again), expected);
        for path in [&ours, &theirs, &again] {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

fn without_end(mut episode: Episode) -> Episode {
    let end = episode.observations.len() - 6;
    episode.observations.truncate(end);
    episode.observations.extend_from_within(end - 6..);
    episode
}

#[test]
fn labels_change_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["a", "b"].map(|name| folder.path().join(name));
    let episodes = write(&ours, true);
    export(&DataSet::open(&ours).unwrap(), &theirs, Format::LeRobot).unwrap();
    let new = |index: usize, episode: &Episode| -> Vec<Option<bool>> {
        (0..episode.steps())
            .map(|step| [Some(index.is_multiple_of(2)), None][step % 2])
            .collect()
    };
    for (path, table) in [
        (&ours, "data/3/part-0.parquet"),
        (&theirs, "data/chunk-000/file-000.parquet"),
    ] {
        let (before, columns) = (read(path), rows(&path.join(table)));
        relabel(path, new).unwrap();
        let expected: Vec<Episode> = before
            .into_iter()
            .enumerate()
            .map(|(index, episode)| {
                let labels = new(index, &episode);
                Episode { labels, ..episode }
            })
            .collect();
        assert_eq!(read(path), expected);
        let after = rows(&path.join(table));
        for (field, column) in columns.schema().fields().iter().zip(columns.columns()) {
            if field.name() != "label" {
                assert_eq!(after.column_by_name(field.name()), Some(column));
            }
        }
        // A second time gives the same file.
        let bytes = fs::read(path.join(table)).unwrap();
        relabel(path, new).unwrap();
        assert_eq!(fs::read(path.join(table)).unwrap(), bytes);
    }
    assert_eq!(episodes[3].actions, read(&ours)[3].actions);
    assert_eq!(names(folder.path()), ["a", "b"]);
}

#[test]
fn labels_are_given_to_a_set_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    write(&path, false);
    relabel(&path, |_, episode| vec![Some(true); episode.steps()]).unwrap();
    assert!(DataSet::open(&path).unwrap().is_labelled());
    assert!(
        read(&path)[4]
            .labels
            .iter()
            .all(|label| *label == Some(true))
    );
}

#[test]
fn any_column_of_truths_may_be_the_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let episodes = write(&path, true);
    let data = DataSet::open(&path).unwrap();
    assert_eq!(data.column(3, "label").unwrap(), episodes[3].labels);
    let ends = [
        Some(false),
        Some(false),
        Some(false),
        Some(false),
        Some(true),
    ];
    assert_eq!(data.column(3, "terminations").unwrap(), ends);
    for (episode, name, expected) in [
        (
            3,
            "infos/success",
            "infos/success: expected a column, got none of that name",
        ),
        (
            3,
            "rewards",
            "row 1 of rewards: expected a Boolean, `accept`, `reject` or nothing, got 0.125",
        ),
        (5, "label", "episode: expected below 5, got 5"),
    ] {
        let error = data.column(episode, name).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn nothing_half_written_is_seen_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let mut writer = Writer::create(&path, &spec(), &about()).unwrap();
    writer.push(&episode(0, false)).unwrap();
    assert!(!path.exists());
    let error = writer.push(&episode(1, true)).unwrap_err().to_string();
    assert!(
        error.ends_with("labels: expected none, as in the episodes before, got some"),
        "{error}"
    );
    drop(writer);
    assert!(names(folder.path()).is_empty());

    let empty = Writer::create(&path, &spec(), &about()).unwrap();
    let error = empty.finish().unwrap_err().to_string();
    assert!(
        error.ends_with("episodes: expected at least 1, got 0"),
        "{error}"
    );
    assert!(names(folder.path()).is_empty());

    let episodes = write(&path, true);
    let error = Writer::create(&path, &spec(), &about())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("expected a path where nothing is, got something that is there"),
        "{error}"
    );
    // The third episode gets too few.
    let short = |index: usize, episode: &Episode| vec![None; episode.steps() - index / 2];
    let error = relabel(&path, short).unwrap_err().to_string();
    assert!(
        error.ends_with("labels of episode 2: expected 4, got 3"),
        "{error}"
    );
    assert_eq!(read(&path), episodes);
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn an_open_data_set_may_go_to_another_thread() {
    fn goes<T: Send + Sync>() {}
    goes::<DataSet>();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
