use super::*;

fn of(lines: &[u8]) -> Result<Vec<Example>, String> {
    read_lines(lines, Path::new("data.jsonl"), MAX_LINE).map_err(|error| error.to_string())
}

fn one(line: &str) -> Example {
    let mut read = of(line.as_bytes()).unwrap();
    assert_eq!(read.len(), 1);
    read.remove(0)
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn chat(messages: &[(Role, &str)]) -> Text {
    let messages = messages.iter().map(|(role, content)| Message {
        role: *role,
        content: (*content).to_owned(),
    });
    Text::Chat(messages.collect())
}

fn preference_of(example: Example) -> [Text; 3] {
    match example {
        Example::Preference {
            prompt,
            chosen,
            rejected,
        } => [prompt, chosen, rejected],
        other => panic!("{other:?}"),
    }
}

const USER: &str = r#"{"role":"user","content":"hi"}"#;

fn assistant(content: &str) -> String {
    format!(r#"{{"role":"assistant","content":"{content}"}}"#)
}

#[test]
fn the_four_types_of_plain_texts() {
    let prompt = one(r#"{"prompt": "The sky is", "label": 3, "other": [[{"x": 1e999}]]}"#);
    assert_eq!(prompt, Example::Prompt(plain("The sky is")));
    let completion = one(r#"{"prompt": "The sky is", "completion": " blue."}"#);
    let (prompt, blue) = (plain("The sky is"), plain(" blue."));
    let expected = Example::Completion {
        prompt: prompt.clone(),
        completion: blue.clone(),
    };
    assert_eq!(completion, expected);
    let unpaired = one(r#"{"prompt": "The sky is", "completion": " blue.", "label": false}"#);
    let expected = Example::Unpaired {
        prompt: prompt.clone(),
        completion: blue.clone(),
        label: false,
    };
    assert_eq!(unpaired, expected);
    let example =
        one(r#"{"prompt": "The sky is", "chosen": " blue.", "rejected": "", "completion": null}"#);
    assert_eq!(example.kind(), "preference");
    assert_eq!(preference_of(example), [prompt, blue, plain("")]);
}

#[test]
fn conversations_are_read_message_by_message() {
    let system = r#"{"role":"system","content":"Be brief.","name":"x"}"#;
    let answer = assistant("\\u00e9\\n");
    let line = format!(r#"{{"prompt": [{system},{USER}], "completion": [{answer}]}}"#);
    let expected = Example::Completion {
        prompt: chat(&[(Role::System, "Be brief."), (Role::User, "hi")]),
        completion: chat(&[(Role::Assistant, "é\n")]),
    };
    assert_eq!(one(&line), expected);
}

#[test]
fn an_implicit_prompt_is_the_longest_common_beginning_by_words() {
    for (chosen, rejected, expected) in [
        (
            "The sky is blue.",
            "The sky is black.",
            ["The sky is", " blue.", " black."],
        ),
        (
            "Q: é?\\n\\nA:  yes sir",
            "Q: é?\\n\\nA:  no",
            ["Q: é?\n\nA:", "  yes sir", "  no"],
        ),
        // Something is left of both.
        ("it is so", "it is", ["it", " is so", " is"]),
        ("a b ", "a b", ["a", " b ", " b"]),
    ] {
        let line = format!(r#"{{"chosen": "{chosen}", "rejected": "{rejected}"}}"#);
        assert_eq!(preference_of(one(&line)), expected.map(plain));
    }
    for (chosen, rejected) in [("yes", "no"), ("", "no"), ("yes we do", "yes")] {
        let line = format!(r#"{{"chosen": "{chosen}", "rejected": "{rejected}"}}"#);
        let error = of(line.as_bytes()).unwrap_err();
        let expected = "data.jsonl, line 1: expected a prompt, or chosen and rejected with a common beginning, \
                        found neither";
        assert_eq!(error, expected);
    }
}

#[test]
fn an_implicit_prompt_of_conversations_is_of_whole_messages() {
    let (yes, yet) = (assistant("yes"), assistant("yet"));
    let expected = [
        chat(&[(Role::User, "hi")]),
        chat(&[(Role::Assistant, "yes")]),
        chat(&[(Role::Assistant, "yet")]),
    ];
    // A plain prompt beside them is a copy.
    for prompt in ["", r#""prompt": "hi", "#] {
        let line = format!(r#"{{{prompt}"chosen": [{USER},{yes}], "rejected": [{USER},{yet}]}}"#);
        assert_eq!(preference_of(one(&line)), expected);
    }
    let line = format!(r#"{{"prompt": [{USER}], "chosen": [{yes}], "rejected": [{yet}]}}"#);
    assert_eq!(preference_of(one(&line)), expected);
    for (chosen, rejected) in [
        (format!("{USER},{yes}"), format!("{USER},{yes}")),
        (yes.clone(), yet.clone()),
        (format!("{USER},{yes}"), USER.to_owned()),
        (format!("{USER},{USER}"), format!("{USER},{yes}")),
    ] {
        let line = format!(r#"{{"chosen": [{chosen}], "rejected": [{rejected}]}}"#);
        of(line.as_bytes()).unwrap_err();
    }
}

#[test]
fn empty_lines_a_byte_order_mark_and_other_line_ends_are_passed_over() {
    let read = of(b"\xEF\xBB\xBF\r\n{\"prompt\": \"a\"}\r\n\n \t\n{\"prompt\": \"b\"}").unwrap();
    let expected = ["a", "b"].map(|text| Example::Prompt(plain(text)));
    assert_eq!(read, expected);
    of(b"{\"prompt\": \"a\"}\n\xEF\xBB\xBF{\"prompt\": \"b\"}\n").unwrap_err();
}

#[test]
fn lines_of_different_types_are_refused_by_both_their_numbers() {
    let completion = format!(
        r#"{{"prompt": [{USER}], "completion": [{}]}}"#,
        assistant("x")
    );
    for (first, other, named) in [
        (
            r#"{"prompt": "a"}"#,
            r#"{"prompt": "a", "completion": "b"}"#,
            "plain prompt-only in line 2, plain prompt-completion in line 4",
        ),
        (
            r#"{"prompt": "a", "completion": "b"}"#,
            &completion,
            "plain prompt-completion in line 2, conversational prompt-completion in line 4",
        ),
        (
            r#"{"prompt": "a", "chosen": "b c", "rejected": "b d"}"#,
            r#"{"prompt": null, "chosen": "b c", "rejected": "b d"}"#,
            "plain preference in line 2, plain preference with an implicit prompt in line 4",
        ),
    ] {
        let error = of(format!("\n{first}\n{first}\n{other}\n").as_bytes()).unwrap_err();
        let expected = format!("data.jsonl: expected lines of one type, found {named}");
        assert_eq!(error, expected);
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let long = format!(r#"{{"prompt": [{{"role": "a\n{}"}}]}}"#, "b".repeat(1000));
    for (line, said) in [
        ("[1]", "expected a JSON object, found something else"),
        (
            r#"{"prompt": "a"#,
            "expected JSON, found EOF while parsing a string at its byte 13",
        ),
        (
            r#"{"prompt": "a"} x"#,
            "expected JSON, found trailing characters at its byte 17",
        ),
        (
            r#"{"prompt": "a", "prompt": "b"}"#,
            "expected JSON, found duplicate field `prompt`",
        ),
        (
            r#"{"prompt": 3}"#,
            "expected a text or a list of messages as prompt, found 3",
        ),
        (r#"{"prompt": []}"#, "as prompt, found an empty list"),
        (
            r#"{"prompt": ["a"]}"#,
            "expected role and content in message 1 of prompt, found \"a\"",
        ),
        (
            r#"{"prompt": [{"role": "tool"}]}"#,
            "as role in message 1 of prompt, found \"tool\"",
        ),
        (
            r#"{"prompt": [{"role": "user"}]}"#,
            "a text as content in message 1 of prompt, found nothing",
        ),
        (r#"{"text": "a"}"#, "found none of them"),
        (r#"{"prompt": "a", "chosen": "b"}"#, "found prompt, chosen"),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}"#,
            "found prompt, completion, chosen, rejected",
        ),
        (
            r#"{"prompt": "a", "completion": "b", "label": 1}"#,
            "expected true or false as label, found 1",
        ),
        (
            r#"{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}"#,
            "expected prompt and completion both plain or both conversations, found one of each",
        ),
        (&long, "found \"a\\nbbb"),
    ] {
        let error = of(format!("\n{line}\n").as_bytes()).unwrap_err();
        assert!(
            error.starts_with("data.jsonl, line 2: expected "),
            "{error}"
        );
        assert!(error.contains(said) && error.len() < 220, "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    let error = of(b"{\"prompt\": \"a\xFF\"}").unwrap_err();
    assert_eq!(
        error,
        "data.jsonl, line 1: expected UTF-8, found something else at its byte 14"
    );
    assert_eq!(
        of(b" \n").unwrap_err(),
        "data.jsonl: expected at least one example, found none"
    );
    let error = read(Path::new("/no/such/file")).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/file: "), "{error}");
}

#[test]
fn a_line_s_length_is_bounded_and_its_depth_too() {
    let line = r#"{"prompt": "a"}"#;
    let path = Path::new("data.jsonl");
    for end in ["", "\n"] {
        let whole = format!("{line}{end}");
        assert!(read_lines(whole.as_bytes(), path, line.len()).is_ok());
        let error = read_lines(whole.as_bytes(), path, line.len() - 1).unwrap_err();
        assert!(
            error.to_string().ends_with("at most 14 bytes, found more"),
            "{error}"
        );
    }
    for column in ["prompt", "other"] {
        let deep = format!(r#"{{"{column}": {}"#, "[".repeat(1_000_000));
        of(deep.as_bytes()).unwrap_err();
    }
}

#[test]
fn nothing_that_a_file_can_hold_panics() {
    let line = format!(
        r#"{{"chosen": [{USER},{}], "rejected": [{USER},{}]}}"#,
        assistant("é a"),
        assistant("é b")
    );
    let bytes = line.as_bytes();
    for place in 0..bytes.len() {
        let _ = of(&bytes[..place]);
        for byte in [0, b'\n', b'"', b'[', b'}', b',', 0xC3, 0xFF] {
            let mut damaged = bytes.to_vec();
            damaged[place] = byte;
            let _ = of(&damaged);
        }
    }
}
