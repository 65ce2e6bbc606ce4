//! Who is outside and who is ours, what numbers and names are sent, and what never leaves: on switches other than the
//! recorded ones. The streams are synthetic: the headers that FreeSWITCH's source sets for such a leg.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::stream::{Stream, settings, settings_with, settings_with_people};
use freeswitch_zammad::call::leg::Side;
use freeswitch_zammad::call::rule::{Glob, Rule};
use freeswitch_zammad::call::tracker::Settings;

const CUSTOMER: &str = "+4915112345678";
const DID: &str = "+49305551001";

/// What a first leg with these headers is taken for, and why.
fn taken(headers: &[(&str, &str)]) -> String {
    taken_by(settings(), headers)
}

fn taken_by(settings: Settings, headers: &[(&str, &str)]) -> String {
    let mut s = Stream::with(settings);
    s.create(headers);
    let note = s.notes[0].split_once(": ").unwrap().1;
    note.to_owned()
}

#[track_caller]
fn is(headers: &[(&str, &str)], side: &str, why: &str) {
    let note = taken(headers);
    assert!(note.starts_with(side) && note.contains(why), "{note}");
}

/// A phone that logged in, with From as given.
fn login<'a>(user: &'a str, from: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("Call-Direction", "inbound"),
        ("Channel-Name", "sofia/internal/somebody@pbx.example.test"),
        ("Caller-Context", "default"),
        ("Caller-Caller-ID-Number", from),
        ("Caller-Destination-Number", "030777888"),
        ("variable_sip_auth_username", user),
        ("variable_user_name", user),
        ("variable_domain_name", "pbx.example.test"),
        ("variable_sip_from_user", from),
    ]
}

#[test]
fn a_phone_is_known_by_its_login() {
    is(&login("1001", "1001"), "ours", "logged in as user 1001");
    // A base station logs in for its handsets; a user may be named by a public number, or show one of their own.
    is(&login("dect-base", "1014"), "ours", "dect-base");
    is(&login("4930555101", "4930555101"), "ours", "4930555101");
    is(&login("101", "+4930555101"), "ours", "101");
    let mut shows = login("anton", "+4930555000");
    shows.push(("variable_outbound_caller_id_number", "030555000"));
    is(&shows, "ours", "anton");
    // Who withholds their number shows none: a phone with CLIR.
    is(&login("1001", "anonymous"), "ours", "1001");
}

#[test]
fn a_trunk_that_registered_with_us_is_outside() {
    is(&login("gsm-gateway", "+4915112345678"), "outside", "as a trunk's is");
    is(&login("2000", "015112345678"), "outside", "as a trunk's is");
    let phones = Rule { channel: Some(Glob::new("sofia/internal/*")), ..rule(Side::Ours) };
    let note = taken_by(settings_with(vec![phones]), &login("2000", "015112345678"));
    assert!(note.starts_with("ours: rule 1"), "{note}");
    // One that withholds a customer's number looks like a phone that withholds its own.
    is(&login("gsm-gateway", "anonymous"), "ours", "gsm-gateway");
    let trunk = Rule { user: Some(Glob::new("gsm-*")), ..rule(Side::Outside) };
    let note = taken_by(settings_with(vec![trunk]), &login("gsm-gateway", "anonymous"));
    assert!(note.starts_with("outside: rule 1"), "{note}");
}

#[test]
fn what_a_browser_is_called_by_is_its_login() {
    // mod_verto names an inbound channel after what it dials, and caller id is whatever the page sends.
    let browser = [
        ("Call-Direction", "inbound"),
        ("Channel-Name", "verto.rtc/030777888"),
        ("Caller-Context", "default"),
        ("Caller-Caller-ID-Number", "+4930555000"),
        ("Caller-Destination-Number", "030777888"),
        ("variable_verto_user", "1003@pbx.example.test"),
    ];
    is(&browser, "ours", "logged in as user 1003");
    let mut s = Stream::new();
    let browser = s.create(&browser);
    let customer = s.dials_out(Some(browser), "030777888");
    s.talk(browser, customer);
    s.bye(browser);
    s.end(customer, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["out 1003 -> 4930777888: answered | normalClearing"]);
}

#[test]
fn a_browser_can_answer() {
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    let browser = s.outbound(
        Some(caller),
        &[
            ("Channel-Name", "verto.rtc/1003@pbx.example.test"),
            ("Caller-Destination-Number", "1003"),
            ("variable_dialed_user", "1003"),
        ],
    );
    s.talk(caller, browser);
    s.bye(caller);
    s.end(browser, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1003 | normalClearing"]);
}

#[test]
fn cards_are_lines_unless_a_rule_says_otherwise() {
    let card = [
        ("Call-Direction", "inbound"),
        ("Channel-Name", "FreeTDM/1:1/5551001"),
        ("Caller-Context", "public"),
        ("Caller-Caller-ID-Number", "015112345678"),
        ("Caller-Destination-Number", "5551001"),
    ];
    is(&card, "outside", "freetdm channel");
    // The second span holds analogue phones.
    let phones = Rule { channel: Some(Glob::new("FreeTDM/2:*")), ..rule(Side::Ours) };
    let mut s = Stream::with(settings_with(vec![phones]));
    let caller = s.create(&card);
    let analogue = s.outbound(Some(caller), &[("Channel-Name", "FreeTDM/2:3/")]);
    s.talk(caller, analogue);
    // Not SIP: nothing says who hung up.
    s.event("CHANNEL_HANGUP_COMPLETE", caller, &[("Hangup-Cause", "NORMAL_CLEARING")]);
    s.event("CHANNEL_HANGUP_COMPLETE", analogue, &[("Hangup-Cause", "NORMAL_CLEARING")]);
    assert_eq!(s.told(), ["in 4915112345678 -> 5551001: FreeTDM/2:3/ | normalClearing"]);
}

#[test]
fn signalwire_is_outside_whatever_its_context() {
    is(
        &[
            ("Call-Direction", "inbound"),
            ("Channel-Name", "sofia/signalwire/+12125551234@example.signalwire.com"),
            ("Caller-Context", "default"),
            ("Caller-Caller-ID-Number", "+12125551234"),
            ("variable_sofia_profile_name", "signalwire"),
        ],
        "outside",
        "signalwire",
    );
}

#[test]
fn phones_without_a_login() {
    let phone = |context, from| {
        vec![
            ("Call-Direction", "inbound"),
            ("Channel-Name", "sofia/internal/x@10.0.0.7"),
            ("Caller-Context", context),
            ("Caller-Caller-ID-Number", from),
            ("Caller-Destination-Number", "1002"),
            ("variable_sip_authorized", "true"),
            ("variable_sip_from_user", from),
        ]
    };
    // Let in by an ACL, on the phones' profile and context, calling as an extension.
    is(&phone("default", "1001"), "ours", "nothing marks it");
    // In `public`, where the stock profile puts whoever did not log in, anybody can claim to be 1001.
    is(&phone("public", "1001"), "outside", "nothing marks it");
    is(&phone("default", CUSTOMER), "outside", "public number");
    // Let in as a directory user by address (`cidr`): a phone calls as that user, a trunk for others.
    let mut known = phone("public", "1001");
    known.extend([("variable_sip_acl_token", "1001@pbx.example.test"), ("variable_user_name", "1001")]);
    is(&known, "ours", "its address belongs to user 1001");
}

#[test]
fn a_gateway_goes_before_a_login() {
    let mut both = login("1001", "1001");
    both.push(("variable_sip_gateway", "provider"));
    is(&both, "outside", "gateway provider");
}

#[test]
fn the_helper_of_a_pickup_is_nobody() {
    is(&[("Call-Direction", "outbound"), ("Channel-Name", "pickup/1001")], "plumbing", "pickup channel");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let to_partner = Rule { gateway: Some(Glob::new("partner-*")), ..rule(Side::Ours) };
    let all = Rule { profile: Some(Glob::new("external*")), ..rule(Side::Outside) };
    let rules = vec![to_partner, all];
    let leg = |gateway| {
        [
            ("Call-Direction", "outbound"),
            ("Channel-Name", "sofia/external/1234@partner.example.test"),
            ("Caller-Destination-Number", "1234"),
            ("variable_sip_gateway_name", gateway),
        ]
    };
    let by = |gateway| taken_by(settings_with(rules.clone()), &leg(gateway));
    assert!(by("partner-berlin").starts_with("ours: rule 1"));
    assert!(by("provider").starts_with("outside: rule 2"));
}

#[test]
fn a_number_that_asks_for_privacy_is_in_no_field() {
    let secret = "15112345678";
    for asks in [
        ("Caller-Privacy-Hide-Number", "true"),
        ("variable_sip_Privacy", "id"),
        ("variable_sip_Privacy", "header; user; id"),
        ("variable_sip_h_Privacy", "full"),
        ("variable_sip_from_host", "anonymous.invalid"),
        ("variable_sip_Remote-Party-ID", "<sip:+4915112345678@p>;party=calling;privacy=full"),
    ] {
        let mut s = Stream::new();
        let mut headers = Stream::caller_headers("sofia/external/anonymous@p", CUSTOMER, DID);
        headers.extend([
            asks,
            ("Caller-Orig-Caller-ID-Number", CUSTOMER),
            ("Caller-Caller-ID-Name", CUSTOMER),
            ("variable_sip_P-Asserted-Identity", CUSTOMER),
        ]);
        let caller = s.create(&headers);
        let phone = s.rings(Some(caller), "1001");
        s.talk(caller, phone);
        // Sent on to a mobile that is shown the number, and put together with another caller.
        let mobile = s.dials_out(Some(caller), "017099988877");
        s.set(mobile, "Caller-Caller-ID-Number", CUSTOMER);
        s.answer(mobile);
        s.bridge(caller, mobile);
        let other = s.caller("+4930123456", DID);
        s.answer(other);
        s.bridge(other, caller);
        s.bye(caller);
        let bodies = s.bodies();
        assert!(bodies.iter().all(|body| !body.contains(secret)), "{asks:?}: {bodies:?}");
        assert!(s.notes.iter().all(|note| !note.contains(secret)), "{asks:?}: {:?}", s.notes);
        assert!(bodies[0].contains(r#""from":"anonymous""#));
    }
    // Late, after a gap, as well.
    let mut s = Stream::new();
    let mut headers = Stream::caller_headers("sofia/external/anonymous@p", CUSTOMER, DID);
    headers.extend([("Caller-Privacy-Hide-Number", "true"), ("Caller-Orig-Caller-ID-Number", CUSTOMER)]);
    let caller = s.unheard(&headers);
    s.event("CHANNEL_DATA", caller, &[]);
    assert!(s.bodies()[0].contains(r#""from":"anonymous""#), "{:?}", s.bodies());
}

#[test]
fn a_phone_that_withholds_its_number_is_still_ours() {
    let mut s = Stream::new();
    let mut headers = login("1001", "1001");
    headers.push(("variable_sip_h_Privacy", "id"));
    let phone = s.create(&headers);
    let customer = s.dials_out(Some(phone), "030777888");
    s.bye(phone);
    s.end(customer, "ORIGINATOR_CANCEL");
    assert_eq!(s.told(), ["out 1001 -> 4930777888: - | cancel"]);
}

#[test]
fn the_number_that_was_dialled_stays() {
    for (requested, to, want) in [
        // The dialplan's transfer comes later; the request's number is the one.
        ("+49305551001", "+49305551001", "49305551001"),
        // The provider sends only the last digits, or our account: To says what was dialled.
        ("1001", "+49305551001", "49305551001"),
        ("account-77", "030 5551001", "49305551001"),
        // A peer that only knows our extension.
        ("1001", "1001", "1001"),
        // Forwarded to us by the provider: it was our number that was called in the end.
        ("+49305551001", "+498912345", "49305551001"),
    ] {
        let mut s = Stream::new();
        let mut headers = Stream::caller_headers("sofia/external/x@p", CUSTOMER, requested);
        headers.push(("variable_sip_to_user", to));
        let caller = s.create(&headers);
        s.set(caller, "Caller-Destination-Number", "2000");
        let phone = s.rings(Some(caller), "1001");
        s.talk(caller, phone);
        s.bye(caller);
        assert_eq!(s.told(), [format!("in 4915112345678 -> {want}: 1001 | normalClearing")]);
    }
}

#[test]
fn agents_and_queues_are_named() {
    let mut s = Stream::with(settings_with_people());
    let caller = s.caller(CUSTOMER, "+49305552000");
    let phone = s.rings(Some(caller), "1001");
    s.talk(caller, phone);
    let globex = s.outbound(
        Some(caller),
        &[
            ("Channel-Name", "sofia/internal/1001@10.0.0.9"),
            ("Caller-Destination-Number", "1001"),
            ("variable_dialed_user", "1001"),
            ("variable_dialed_domain", "globex.example.test"),
        ],
    );
    s.answer(globex);
    s.bridge(caller, globex);
    s.bye(caller);
    let out = s.phone("1002", "030777888");
    let customer = s.dials_out(Some(out), "030777888");
    s.talk(out, customer);
    s.bye(out);
    s.end(customer, "NORMAL_CLEARING");
    assert_eq!(
        s.told(),
        [
            "in 4915112345678 -> 49305552000 queue Support: 49305551001, 49305559001 | normalClearing",
            "out 1002 -> 4930777888 user Berta: answered | normalClearing"
        ]
    );
    let bodies = s.bodies();
    assert!(bodies[1].contains(r#""user":"Anton","answeringNumber":"49305551001""#), "{}", bodies[1]);
    assert!(bodies[2].contains(r#""user":"Gerd""#), "{}", bodies[2]);
    let outbound_answer = bodies.iter().find(|b| b.contains("answer") && b.contains(r#""out""#)).unwrap();
    assert!(!outbound_answer.contains("user") && !outbound_answer.contains("answeringNumber"));
}

#[test]
fn a_queue_that_the_event_names_is_sent_if_none_is_configured() {
    // A leg that is found after a gap, waiting in mod_callcenter.
    for (to, want) in [("+49305553000", "sales"), ("+49305552000", "Support")] {
        let mut s = Stream::with(settings_with_people());
        let mut headers = Stream::caller_headers("sofia/external/x@p", CUSTOMER, to);
        headers.extend([("variable_cc_queue", "sales@default"), ("Answer-State", "answered")]);
        let caller = s.unheard(&headers);
        s.event("CHANNEL_DATA", caller, &[]);
        s.bye(caller);
        let to = &to[1..];
        assert_eq!(s.told(), [format!("in 4915112345678 -> {to} queue {want}: - | cancel")]);
    }
}

#[test]
fn names_in_any_bytes_do_no_harm() {
    let mut s = Stream::new();
    let mut headers = Stream::caller_headers("sofia/external/x@p", "", DID);
    headers.push(("Caller-Caller-ID-Name", "\"+4915199999999\" <anonymous>\u{0}\u{fffd}"));
    let caller = s.create(&headers);
    s.bye(caller);
    assert_eq!(s.told(), ["in anonymous -> 49305551001: - | cancel"]);
}

const fn rule(side: Side) -> Rule {
    Rule {
        profile: None,
        context: None,
        gateway: None,
        channel: None,
        user: None,
        number: None,
        way: None,
        side,
    }
}
