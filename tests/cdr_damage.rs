//! Whatever is in a file, reading it ends, and what it does not understand it says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/cdr.rs"]
mod record;

use freeswitch_zammad::call::cdr::{self, Unreadable};
use freeswitch_zammad::sim::recording::Recording;
use proptest::prelude::*;
use record::Record;

mod invariants {
    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = cdr::read(&bytes);
            let _ = cdr::read(&[b"{", &bytes[..]].concat());
            let _ = cdr::read(&[b"<cdr>", &bytes[..]].concat());
        }

        #[test]
        fn no_change_of_a_record_makes_it_panic(
            at in any::<prop::sample::Index>(),
            with in proptest::collection::vec(any::<u8>(), 0..8),
            cut in 0_usize..40,
        ) {
            for text in small() {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                let end = (at + cut).min(bytes.len());
                bytes.splice(at..end, with.clone());
                if let Ok(cdr) = cdr::read(&bytes) {
                    prop_assert!(cdr.begun() <= cdr.ended());
                    let _ = cdr::replay(&[cdr]);
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_not_written_to_its_end_is_damaged_wherever_it_ends() {
        for text in small() {
            assert!(cdr::read(text.as_bytes()).is_ok());
            let whole = text.trim_end().len();
            for end in 0..whole {
                assert_eq!(cdr::read(&text.as_bytes()[..end]), Err(Unreadable::Damaged), "cut at {end}");
            }
        }
    }

    /// One record in each form, without most of its variables.
    fn small() -> [String; 3] {
        let mut record = answered();
        record.variables.retain(|(name, _)| {
            ["uuid", "start_stamp", "hangup_cause", "originated_legs", "originate_causes", "last_bridge_to"]
                .contains(&name.as_str())
        });
        [record.json(true), record.json(false), record.xml()]
    }
}

mod known_errors {
    use super::*;

    #[test]
    fn what_is_no_record_says_what_is_missing() {
        for (text, what) in [
            ("{}", "variables"),
            ("<cdr></cdr>", "variables"),
            (r#"{"variables": {}}"#, "callflow"),
            (r#"{"variables": {"uuid": "a"}, "callflow": [{}]}"#, "when it began and ended"),
            ("<html><body>404</body></html>", "variables"),
            (r#"{"variables": {"a": [1]}, "callflow": 5}"#, "when it began and ended"),
        ] {
            assert_eq!(cdr::read(text.as_bytes()), Err(Unreadable::Foreign(what)), "{text}");
        }
        for text in
            ["", "   ", "uuid,start\n", "%7B%22core-uuid%22", "null", "[1,2]", "<cdr>&nonsense;</cdr>"]
        {
            assert_eq!(cdr::read(text.as_bytes()), Err(Unreadable::Damaged), "{text}");
        }
    }

    #[test]
    fn an_id_that_no_store_would_take_is_refused() {
        let record = answered();
        let long = record.id.repeat(40);
        let json = record.json(true).replace(&record.id, &long);
        assert_eq!(cdr::read(json.as_bytes()), Err(Unreadable::Foreign("uuid")));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = 1_000_000;
        for text in ["[".repeat(deep), r#"{"a":"#.repeat(deep), "<a>".repeat(deep)] {
            assert_eq!(cdr::read(text.as_bytes()), Err(Unreadable::Damaged));
        }
    }

    #[test]
    fn a_callflow_that_stands_twice_is_two_as_before_1_6() {
        let new = r#"{"variables":{"uuid":"u","direction":"inbound","end_uepoch":"1700000009000000"},
            "callflow":[STAYS]}"#;
        let old = r#"{"variables":{"uuid":"u","direction":"inbound","end_uepoch":"1700000009000000"},
            "callflow":STAYS}"#;
        let stay = |index: u32, dialled: &str| {
            format!(
                r#"{{"profile_index":"{index}","caller_profile":{{"destination_number":"{dialled}","aniii":null}},
                "times":{{"created_time":"1700000001000000"}}}}"#
            )
        };
        let (second, first) = (stay(2, "1001"), stay(1, "+4930"));
        let new = new.replace("STAYS", &format!("{second},{first}"));
        let old = old.replace("STAYS", &format!(r#"{second},"callflow":{first}"#));
        let read = cdr::read(new.as_bytes()).unwrap();
        assert_eq!(cdr::read(old.as_bytes()).unwrap(), read);
        let events = cdr::replay(&[read]);
        assert_eq!(events[0].1.get("Caller-Destination-Number").unwrap(), "+4930");
    }

    #[test]
    fn a_latin1_name_and_references_are_no_damage() {
        let json = answered().json(false).replace("\"caller_id_name\":\"", "\"caller_id_name\":\"J\u{1}rgen");
        let bytes: Vec<u8> = json.bytes().map(|b| if b == 1 { 0xfc } else { b }).collect();
        assert!(cdr::read(&bytes).is_ok());
        let xml =
            answered().xml().replace("<caller_id_name>", "<caller_id_name>J&#xFC;rgen &amp; S&#246;hne ");
        assert!(cdr::read(xml.as_bytes()).is_ok());
    }

    #[test]
    fn variables_may_be_called_by_what_is_no_name() {
        let odd = "<a b(c)>x</a b(c)><1st>y</1st><variables>z</variables>";
        let xml = answered().xml().replace("  <variables>\n", &format!("  <variables>\n{odd}\n"));
        assert_eq!(cdr::read(xml.as_bytes()), cdr::read(answered().xml().as_bytes()));
    }
}

fn answered() -> Record {
    let recording = Recording::parse(&common::recording("captures", "in_answered_caller_hangs_up")).unwrap();
    record::records(&recording).into_iter().find(|record| !record.is_b_leg).unwrap()
}
