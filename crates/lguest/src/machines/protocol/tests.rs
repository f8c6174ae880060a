//! Lines and their meanings, and the schema in the documents.

use super::*;
use proptest::prelude::*;
use schemars::JsonSchema;
use std::path::Path;

/// All that is said, in either direction.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "for its schema")]
struct Messages {
    call: Call,
    inspected: Inspected,
    counts: Counts,
    done: Done,
    asked: Asked,
    traced: Traced,
    devices: Devices,
    end: End,
    read: Read,
    attached: Attached,
    begun: Begun,
}

#[test]
fn the_schema_is_that_of_the_code() {
    let schema = schemars::schema_for!(Messages);
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/control.schema.json");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(file, text).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap();
    assert_eq!(written, text, "if that is meant: UPDATE_EXPECT=1");
}

#[test]
fn the_list_of_methods_is_complete() {
    let schema = serde_json::to_string(&schemars::schema_for!(Call)).unwrap();
    let listed = schema.matches("\"const\":").count();
    assert_eq!(listed, Call::METHODS.len(), "{schema}");
    for method in Call::METHODS {
        assert!(schema.contains(&format!("\"const\":\"{method}\"")));
    }
}

fn code(line: &[u8]) -> i64 {
    let Err(answer) = parse(line) else {
        panic!("{}", String::from_utf8_lossy(line));
    };
    assert!(answer.ends_with(b"\n"));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["jsonrpc"], "2.0");
    answer["error"]["code"].as_i64().unwrap()
}

#[test]
fn wrong_lines_get_the_numbers_of_json_rpc() {
    assert_eq!(code(b"hello"), -32700);
    assert_eq!(code(b""), -32700);
    assert_eq!(code(b"{\"jsonrpc\":\"2.0\""), -32700);
    assert_eq!(code(b"[]"), -32600);
    assert_eq!(code(b"3"), -32600);
    assert_eq!(
        code(br#"{"jsonrpc":"1.0","id":1,"method":"stats"}"#),
        -32600
    );
    assert_eq!(
        code(br#"{"jsonrpc":"2.0","id":{},"method":"stats"}"#),
        -32600
    );
    assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":7}"#), -32600);
    assert_eq!(
        code(br#"{"jsonrpc":"2.0","id":1,"method":"reboot"}"#),
        -32601
    );
    let wrong =
        br#"{"jsonrpc":"2.0","id":1,"method":"stats","params":{"x":1}}"#;
    assert_eq!(code(wrong), -32602);
    let wrong =
        br#"{"jsonrpc":"2.0","id":1,"method":"write","params":{"data":"?"}}"#;
    assert_eq!(code(wrong), -32602);
    let deep = [b"[".repeat(9999), b"]".repeat(9999)].concat();
    assert_eq!(code(&deep), -32700);
}

#[test]
fn calls_are_understood() {
    let calls = [
        Call::Inspect {},
        Call::Read {
            from: Some(7),
            since: None,
        },
        Call::Attach {
            from: None,
            since: Some(1),
            types: true,
        },
        Call::Write {
            data: Bytes(b"\0\xff\n".to_vec()),
        },
    ];
    for (id, meant) in (1..).zip(calls) {
        let line = call(id, &meant);
        assert_eq!(parse(&line), Ok((Some(json!(id)), meant)));
    }
    let bare = br#"{"jsonrpc":"2.0","method":"kill"}"#;
    assert_eq!(parse(bare), Ok((None, Call::Kill {})));
    let bare = br#"{"jsonrpc":"2.0","id":"a","method":"attach"}"#;
    assert!(parse(bare).is_ok());
}

#[test]
fn answers_are_understood() {
    let read = Read {
        from: 5,
        data: Bytes(vec![0x1b, b'[']),
        end: 7,
    };
    let line = notification("output", &read);
    assert_eq!(received(&line), Some(Received::Output(read.clone())));
    let line = answer(&json!(3), &Done {});
    assert_eq!(received(&line), Some(Received::Answer(3, Ok(json!({})))));
    let line = failed(&json!(4), Failure::NotNow, "no");
    assert_eq!(received(&line), Some(Received::Answer(4, Err("no".into()))));
    assert_eq!(received(b"{}"), None);
}

#[test]
fn a_full_message_fits_into_a_line() {
    let read = Read {
        from: u64::MAX,
        data: Bytes(vec![0xff; BYTES_MOST]),
        end: u64::MAX,
    };
    assert!(notification("output", &read).len() <= LINE_MOST);
    let write = Call::Write {
        data: Bytes(vec![0xff; BYTES_MOST]),
    };
    assert!(call(u64::MAX, &write).len() <= LINE_MOST);
}

proptest! {
    #[test]
    fn any_line_is_a_call_or_gets_one_line(
        line in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Err(answer) = parse(&line) {
            prop_assert_eq!(answer.iter().filter(|&&b| b == b'\n').count(), 1);
            prop_assert!(answer.len() <= LINE_MOST);
        }
        let _ = received(&line);
    }
}
