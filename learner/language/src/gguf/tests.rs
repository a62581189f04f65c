//! Files made by hand: well-formed ones of every type, and malformed ones.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A key of the metadata, the code of its type, its bytes.
type Entry<'a> = (&'a str, u32, Vec<u8>);

/// A tensor to be written.
struct Part<'a> {
    name: &'a str,
    /// In ggml's order, the fastest first.
    dimensions: &'a [u64],
    code: u32,
    offset: u64,
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn list(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(values);
    bytes
}

fn texts(values: &[&str]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
    list(8, values.len() as u64, &bytes)
}

/// A file of version 3 with an alignment of `alignment` bytes, which its metadata have to say.
fn file(entries: &[Entry<'_>], parts: &[Part<'_>], data: &[u8], alignment: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((parts.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, kind, value) in entries {
        bytes.extend(text(key));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    for part in parts {
        bytes.extend(text(part.name));
        bytes.extend((part.dimensions.len() as u32).to_le_bytes());
        for size in part.dimensions {
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(part.code.to_le_bytes());
        bytes.extend(part.offset.to_le_bytes());
    }
    if !parts.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    }
    bytes.extend(data);
    bytes
}

/// Opens a file of these bytes, whose name is gone again afterwards.
fn open(bytes: &[u8]) -> Result<Gguf, GgufError> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("gguf-test-{}-{number}.gguf", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let opened = Gguf::open(&path);
    std::fs::remove_file(&path).unwrap();
    opened
}

/// The error of a file, which has to be one line that names the file.
fn refusal(bytes: &[u8]) -> String {
    one_line(open(bytes).unwrap_err())
}

fn one_line(error: GgufError) -> String {
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    let (_, rest) = message.split_once("gguf-test-").expect("names the file");
    let (_, rest) = rest.split_once(".gguf").expect("names the file");
    rest.to_owned()
}

/// A file with values of every kind and tensors of every type.
fn sample() -> Vec<u8> {
    let entries = [
        ("general.alignment", 4, 8_u32.to_le_bytes().to_vec()),
        ("u8", 0, vec![200]),
        ("i8", 1, vec![0xff]),
        ("u16", 2, vec![1, 2]),
        ("i16", 3, vec![0xfe, 0xff]),
        ("i32", 5, (-3_i32).to_le_bytes().to_vec()),
        ("f32", 6, 0.1_f32.to_le_bytes().to_vec()),
        ("flag", 7, vec![1]),
        ("text", 8, text("two\nlines, ü")),
        ("u64", 10, u64::MAX.to_le_bytes().to_vec()),
        ("i64", 11, i64::MIN.to_le_bytes().to_vec()),
        ("f64", 12, 0.1_f64.to_le_bytes().to_vec()),
        ("texts", 9, texts(&["a", "", "c"])),
        ("flags", 9, list(7, 2, &[1, 0])),
        (
            "lists",
            9,
            list(9, 2, &[list(0, 1, &[7]), list(0, 0, &[])].concat()),
        ),
    ];
    let part = |name, dimensions, code, offset| Part {
        name,
        dimensions,
        code,
        offset,
    };
    let parts = [
        part("scalar", &[], 0, 0),
        part("f32", &[3, 2], 0, 0),
        part("f16", &[2], 1, 24),
        part("bf16", &[1, 1, 2, 1], 30, 32),
        part("q8_0", &[32], 8, 40),
        part("q4_0", &[32], 2, 80),
        part("q4_1", &[32], 3, 104),
        part("q5_0", &[32], 6, 128),
        part("q4_k", &[256], 12, 152),
        part("q6_k", &[256], 14, 296),
        part("empty", &[5, 0], 0, 296),
        part("q2_k", &[256], 10, 296),
    ];
    let mut data = Vec::new();
    for value in [1.0_f32, -2.5, 3.0, 4.0, f32::INFINITY, -0.0] {
        data.extend(value.to_le_bytes());
    }
    data.extend([0x00, 0x3c, 0xff, 0xfb, 0, 0, 0, 0]);
    data.extend([0x80, 0x3f, 0x49, 0xc0, 0, 0, 0, 0]);
    data.extend((0..466).map(|index| (index * 7) as u8));
    file(&entries, &parts, &data, 8)
}

#[test]
fn values_are_widened() {
    let gguf = open(&sample()).unwrap();
    let expected = [
        ("u8", Value::U64(200)),
        ("i8", Value::I64(-1)),
        ("u16", Value::U64(513)),
        ("i16", Value::I64(-2)),
        ("general.alignment", Value::U64(8)),
        ("i32", Value::I64(-3)),
        ("f32", Value::F64(f64::from(0.1_f32))),
        ("flag", Value::Bool(true)),
        ("text", Value::Text("two\nlines, ü".to_owned())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
        (
            "flags",
            Value::List(vec![Value::Bool(true), Value::Bool(false)]),
        ),
        (
            "lists",
            Value::List(vec![Value::List(vec![Value::U64(7)]), Value::List(vec![])]),
        ),
    ];
    for (key, value) in expected {
        assert_eq!(gguf.value(key), Some(&value), "{key}");
    }
    assert_eq!(gguf.value("none"), None);
    assert_eq!(gguf.texts("texts").unwrap(), ["a", "", "c"]);
    assert_eq!(gguf.text("text").unwrap(), "two\nlines, ü");
    assert_eq!(gguf.count("u16").unwrap(), 513);
    assert_eq!(gguf.number("f64").unwrap(), 0.1);
    assert_eq!(gguf.number("i16").unwrap(), -2.0);
    assert_eq!(gguf.number("u8").unwrap(), 200.0);
}

#[test]
fn a_value_of_another_type_is_refused_with_what_was_found() {
    let gguf = open(&sample()).unwrap();
    let refusals = [
        (
            gguf.text("u8").unwrap_err(),
            r#", key "u8": expected a text, found the integer 200"#,
        ),
        (
            gguf.text("n\no").unwrap_err(),
            r#", key "n\no": expected a text, found no such key"#,
        ),
        (
            gguf.count("i8").unwrap_err(),
            r#", key "i8": expected an integer, at least 0, found the integer -1"#,
        ),
        (
            gguf.count("f64").unwrap_err(),
            r#", key "f64": expected an integer, at least 0, found the number 0.1"#,
        ),
        (
            gguf.number("text").unwrap_err(),
            r#", key "text": expected a number, found a text of 13 bytes"#,
        ),
        (
            gguf.texts("flag").unwrap_err(),
            r#", key "flag": expected a list of texts, found the flag true"#,
        ),
        (
            gguf.texts("flags").unwrap_err(),
            r#", key "flags": expected a list of texts, found the flag true at index 0"#,
        ),
        (
            gguf.text("texts").unwrap_err(),
            r#", key "texts": expected a text, found a list of 3 values"#,
        ),
    ];
    for (error, expected) in refusals {
        assert_eq!(one_line(error), expected);
    }
}

#[test]
fn tensors_of_every_type_are_read() {
    let gguf = open(&sample()).unwrap();
    assert_eq!(gguf.shape("f32").unwrap(), [2, 3]);
    assert_eq!(gguf.shape("bf16").unwrap(), [1, 2, 1, 1]);
    assert_eq!(gguf.shape("scalar").unwrap(), [0_usize; 0]);
    assert_eq!(gguf.tensor("scalar").unwrap(), [1.0]);
    let f32s = gguf.tensor("f32").unwrap();
    assert_eq!(f32s, [1.0, -2.5, 3.0, 4.0, f32::INFINITY, 0.0]);
    assert!(f32s[5].is_sign_negative());
    assert_eq!(gguf.tensor("f16").unwrap(), [1.0, -65504.0]);
    assert_eq!(gguf.tensor("bf16").unwrap(), [1.0, -3.140625]);
    assert_eq!(gguf.shape("empty").unwrap(), [0, 5]);
    assert_eq!(gguf.tensor("empty").unwrap(), [0.0; 0]);
    let names: Vec<&str> = gguf.names().collect();
    assert_eq!(names.len(), 12);
    assert!(names.is_sorted());
    for name in names.into_iter().filter(|name| *name != "q2_k") {
        let count: usize = gguf.shape(name).unwrap().iter().product();
        assert_eq!(gguf.tensor(name).unwrap().len(), count, "{name}");
    }
    // The q8_0 tensor's bytes are 0, 7, 14, ...: a subnormal scale times 14, 21, ...
    let scale = f32::from(0x0700_u16) / f32::from(0x0400_u16) * 2.0_f32.powi(-14);
    assert_eq!(
        gguf.tensor("q8_0").unwrap()[..2],
        [14.0 * scale, 21.0 * scale]
    );
}

#[test]
fn a_tensor_is_read_in_parts_as_in_one() {
    let count = 2 * VALUES_AT_ONCE + 96;
    let blocks = count / 32;
    let mut data = Vec::new();
    for block in 0..blocks {
        // A scale of 1, and values that differ from block to block.
        data.extend([0x00, 0x3c]);
        data.extend((0..32).map(|index| (index + block) as u8));
    }
    let dimensions = [32, blocks as u64];
    let part = Part {
        name: "t",
        dimensions: &dimensions,
        code: 8,
        offset: 0,
    };
    let values = open(&file(&[], &[part], &data, 32))
        .unwrap()
        .tensor("t")
        .unwrap();
    assert_eq!(values.len(), count);
    for (index, value) in values.into_iter().enumerate() {
        assert_eq!(
            value,
            f32::from((index % 32 + index / 32) as u8 as i8),
            "{index}"
        );
    }
}

#[test]
fn other_tensor_types_and_names_are_refused() {
    let gguf = open(&sample()).unwrap();
    assert_eq!(gguf.shape("q2_k").unwrap(), [256]);
    assert_eq!(
        one_line(gguf.tensor("q2_k").unwrap_err()),
        ", tensor \"q2_k\": expected type F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K or Q6_K, \
         found Q2_K"
    );
    for error in [gguf.tensor("x").unwrap_err(), gguf.shape("x").unwrap_err()] {
        assert_eq!(
            one_line(error),
            ": expected a tensor \"x\", found none among its 12"
        );
    }
}

#[test]
fn version_2_is_read_and_others_are_refused() {
    let mut bytes = sample();
    bytes[4] = 2;
    assert_eq!(open(&bytes).unwrap().tensor("scalar").unwrap(), [1.0]);
    let start = ", byte 4: expected version 2 or 3, little endian, found version ";
    for (version, found) in [
        ([0, 0, 0, 0], "0"),
        ([1, 0, 0, 0], "1"),
        ([4, 0, 0, 0], "4"),
        ([0, 0, 0, 3], "3, big endian"),
    ] {
        bytes[4..8].copy_from_slice(&version);
        assert_eq!(refusal(&bytes), format!("{start}{found}"));
    }
    bytes[3] = b'\n';
    let expected = ", byte 0: expected the mark \"GGUF\", found \"GGU\\n\"";
    assert_eq!(refusal(&bytes), expected);
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let bytes = sample();
    assert!(open(&bytes).is_ok());
    for length in 0..bytes.len() {
        refusal(&bytes[..length]);
    }
}

/// Whatever a byte is changed to, there is an answer.
#[test]
fn a_file_with_any_byte_changed_makes_no_panic() {
    let bytes = sample();
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff, bytes[at]] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            match open(&changed) {
                Ok(gguf) => gguf.names().for_each(|name| drop(gguf.tensor(name))),
                Err(error) => drop(one_line(error)),
            }
        }
    }
}

#[test]
fn huge_counts_are_refused() {
    for count in [40_u64, 1 << 32, 1 << 60, u64::MAX] {
        let mut bytes = file(&[], &[], &[], 32);
        bytes[8..16].copy_from_slice(&count.to_le_bytes());
        let found = format!("found a count of {count}");
        let start = ", byte 24: expected at most 0 tensors in the rest of the file, ";
        assert_eq!(refusal(&bytes), format!("{start}{found}"));
        bytes[16..24].copy_from_slice(&count.to_le_bytes());
        let start = ", byte 24: expected at most 0 keys in the rest of the file, ";
        assert_eq!(refusal(&bytes), format!("{start}{found}"));
        for (kind, most) in [(0, 9), (5, 2), (8, 1), (9, 0), (12, 1)] {
            let bytes = file(&[("k", 9, list(kind, count, &[0; 9]))], &[], &[], 32);
            let start = format!(", byte 49: expected at most {most} values of a list");
            assert_eq!(
                refusal(&bytes),
                format!("{start} in the rest of the file, {found}")
            );
        }
        let bytes = file(&[("k", 8, count.to_le_bytes().to_vec())], &[], &[], 32);
        let expected = format!(", byte 45: expected a text of {count} bytes, found 0 bytes");
        assert_eq!(
            refusal(&bytes),
            format!("{expected} up to the end of the file")
        );
    }
}

#[test]
fn huge_tensors_are_refused() {
    let refused = |dimensions: &[u64], code, offset| {
        let part = Part {
            name: "t",
            dimensions,
            code,
            offset,
        };
        refusal(&file(&[], &[part], &[0; 64], 32))
    };
    let most = 1_u64 << 63;
    let expected = ", tensor \"t\": expected fewer than 2^64 values, found dimensions [";
    assert!(refused(&[most, 2], 0, 0).starts_with(expected));
    assert!(refused(&[u64::MAX, u64::MAX, u64::MAX], 10, 0).starts_with(expected));
    let end = "found the end of the file, at byte 128";
    for (dimensions, code, offset) in [
        (&[most][..], 0, 0),
        (&[17], 0, 0),
        (&[16], 0, 32),
        (&[most - 256], 14, 0),
        (&[1], 0, u64::MAX - 31),
        (&[1], 10, 96),
        (&[0], 0, 96),
    ] {
        let count = dimensions[0];
        let expected = format!(", tensor \"t\": expected its {count} values from offset {offset}");
        assert_eq!(
            refused(dimensions, code, offset),
            format!("{expected} on, {end}")
        );
    }
    let expected = ", tensor \"t\": expected at most 4 dimensions, found 5";
    assert_eq!(refused(&[1, 1, 1, 1, 1], 0, 0), expected);
    let expected = ", tensor \"t\": expected rows of whole blocks of 32 values, found rows of 16";
    assert_eq!(refused(&[16, 2], 8, 0), expected);
    let expected = ", tensor \"t\": expected an offset that is a multiple of 32, found 8";
    assert_eq!(refused(&[1], 0, 8), expected);
}

#[test]
fn names_that_come_twice_are_refused() {
    let bytes = file(&[("k", 0, vec![1]), ("k", 7, vec![1])], &[], &[], 32);
    assert_eq!(
        refusal(&bytes),
        ", byte 38: expected a new key, found \"k\" again"
    );
    let name = "ü\n".repeat(1000);
    let part = || Part {
        name: &name,
        dimensions: &[1],
        code: 0,
        offset: 0,
    };
    let refused = refusal(&file(&[], &[part(), part()], &[0; 4], 32));
    let expected = format!(
        "expected a new tensor, found \"{}\"... again",
        "ü\\n".repeat(32)
    );
    assert!(refused.ends_with(&expected), "{refused}");
}

#[test]
fn other_malformed_metadata_are_refused() {
    let refused = |kind, value: &[u8]| refusal(&file(&[("k", kind, value.to_vec())], &[], &[], 32));
    let expected = ", the type before byte 37: expected a type of value from 0 to 12, found 13";
    assert_eq!(refused(13, &[0]), expected);
    let expected = ", the type before byte 41: expected a type of value from 0 to 12, found 13";
    assert_eq!(refused(9, &list(13, 0, &[])), expected);
    assert_eq!(
        refused(7, &[2]),
        ", byte 37: expected a flag, 0 or 1, found 2"
    );
    let mut invalid = text("ab\n?");
    *invalid.last_mut().unwrap() = 0xff;
    let expected = ", byte 45: expected a text in UTF-8, found invalid bytes after the first 3";
    assert_eq!(refused(8, &invalid), expected);
    let nested = |depth| (1..depth).fold(list(0, 0, &[]), |inner, _| list(9, 1, &inner));
    assert!(open(&file(&[("k", 9, nested(8))], &[], &[], 32)).is_ok());
    let expected = ", byte 133: expected lists at most 8 deep, found one more";
    assert_eq!(refused(9, &nested(9)), expected);
    assert_eq!(refused(9, &list(9, 1, &[]).repeat(100_000)), expected);
}

#[test]
fn the_alignment_is_honoured() {
    for alignment in [8_u32, 16, 64, 4096] {
        let entry = ("general.alignment", 4, alignment.to_le_bytes().to_vec());
        let offset = u64::from(alignment);
        let part = Part {
            name: "t",
            dimensions: &[1],
            code: 0,
            offset,
        };
        let mut data = vec![0; alignment as usize];
        data.extend(7.0_f32.to_le_bytes());
        let bytes = file(&[entry], &[part], &data, alignment as usize);
        assert_eq!(open(&bytes).unwrap().tensor("t").unwrap(), [7.0]);
    }
    for (kind, value, found) in [
        (4, vec![0; 4], "the integer 0"),
        (4, vec![12, 0, 0, 0], "the integer 12"),
        (5, vec![8, 0, 0, 0], "the integer 8"),
        (8, text("8"), "a text of 1 bytes"),
    ] {
        let bytes = file(&[("general.alignment", kind, value)], &[], &[], 32);
        let expected = "expected an unsigned multiple of 8 above 0, found ";
        let start = ", key \"general.alignment\": ";
        assert_eq!(refusal(&bytes), format!("{start}{expected}{found}"));
    }
    // Alignment that would put the data beyond what can be counted.
    let entry = (
        "general.alignment",
        10,
        (1_u64 << 63).to_le_bytes().to_vec(),
    );
    let part = Part {
        name: "t",
        dimensions: &[1],
        code: 0,
        offset: 1 << 63,
    };
    let refused = refusal(&file(&[entry], &[part], &[0; 4], 32));
    assert!(
        refused.starts_with(", tensor \"t\": expected its 1 values"),
        "{refused}"
    );
}

#[test]
fn a_file_that_is_not_there_or_shrinks_is_an_error() {
    let missing = Gguf::open(Path::new("/nonexistent/model.gguf")).unwrap_err();
    let message = missing.to_string();
    assert!(
        message.starts_with("cannot read /nonexistent/model.gguf: "),
        "{message}"
    );
    let folder = Gguf::open(&std::env::temp_dir()).unwrap_err();
    assert!(matches!(
        folder,
        GgufError::Read { .. } | GgufError::Malformed { .. }
    ));
    let gguf = open(&sample()).unwrap();
    let shrunk = Gguf {
        file: File::open("/dev/null").unwrap(),
        ..gguf
    };
    assert!(matches!(
        shrunk.tensor("f32").unwrap_err(),
        GgufError::Read { .. }
    ));
}
