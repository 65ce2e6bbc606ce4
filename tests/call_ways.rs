//! The ways a call can go that are not among the recordings. All streams here are synthetic: written by hand with
//! the headers that FreeSWITCH's source sets, each with what a person watching would say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::stream::{Stream, settings};
use freeswitch_zammad::call::tracker::Settings;

const CUSTOMER: &str = "+4915112345678";
const DID: &str = "+49305551001";

/// A customer talks to 1001: (stream, caller, phone).
fn talking() -> (Stream, common::stream::Leg, common::stream::Leg) {
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    let phone = s.rings(Some(caller), "1001");
    s.talk(caller, phone);
    (s, caller, phone)
}

#[test]
fn a_semi_attended_transfer_to_a_ringing_phone() {
    // 1001 asks 1002, does not wait for an answer and REFERs with Replaces: the customer hears it ring, 1002 answers.
    let (mut s, caller, phone) = talking();
    let asking = s.phone("1001", "1002");
    let asked = s.rings(Some(asking), "1002");
    s.end(asking, "ATTENDED_TRANSFER");
    s.unbridge(caller, phone);
    s.bridge(caller, asked);
    s.end(phone, "ATTENDED_TRANSFER");
    s.answer(asked);
    s.bye(caller);
    s.end(asked, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001, 1002 | normalClearing"]);
}

#[test]
fn an_attended_transfer_to_an_outside_number() {
    // 1001 asks a partner outside and joins them with the customer: two calls, the first handed on.
    let (mut s, caller, phone) = talking();
    let asking = s.phone("1001", "030777888");
    let partner = s.dials_out(Some(asking), "030777888");
    s.talk(asking, partner);
    s.unbridge(caller, phone);
    s.unbridge(asking, partner);
    s.bridge(caller, partner);
    s.end(phone, "ATTENDED_TRANSFER");
    s.end(asking, "ATTENDED_TRANSFER");
    s.bye(caller);
    s.end(partner, "NORMAL_CLEARING");
    assert_eq!(
        s.told(),
        [
            "in 4915112345678 -> 49305551001: 1001, 4930777888 | normalClearing",
            "out 1001 -> 4930777888: answered | normalClearing"
        ]
    );
}

#[test]
fn a_blind_transfer_of_the_customer_to_a_mobile() {
    // REFER: the customer's own leg runs the dialplan and bridges to the trunk. Handed on, no second call.
    let (mut s, caller, phone) = talking();
    s.unbridge(caller, phone);
    s.end(phone, "BLIND_TRANSFER");
    let mobile = s.dials_out(Some(caller), "017099988877");
    s.answer(mobile);
    s.bridge(caller, mobile);
    s.bye(mobile);
    s.end(caller, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001, 4917099988877 | normalClearing"]);
}

#[test]
fn an_outbound_call_is_handed_to_a_colleague_and_then_outside() {
    // 1001 calls a customer, sends them blindly to 1002, who sends them to a mobile: one outbound call, to its end.
    let mut s = Stream::new();
    let phone = s.phone("1001", "030777888");
    let customer = s.dials_out(Some(phone), "030777888");
    s.talk(phone, customer);
    s.unbridge(phone, customer);
    s.end(phone, "BLIND_TRANSFER");
    let colleague = s.rings(Some(customer), "1002");
    s.answer(colleague);
    s.bridge(customer, colleague);
    s.unbridge(customer, colleague);
    s.end(colleague, "BLIND_TRANSFER");
    let mobile = s.dials_out(Some(customer), "017099988877");
    s.answer(mobile);
    s.bridge(customer, mobile);
    assert_eq!(s.tracker.open_calls(), 1);
    s.bye(customer);
    s.end(mobile, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["out 1001 -> 4930777888: answered | normalClearing"]);
}

#[test]
fn a_phone_sends_the_call_on_with_302() {
    // 1001's phone is forwarded to a mobile by its owner: the new leg names the phone's leg. Answered there.
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    let phone = s.rings(Some(caller), "1001");
    let mobile = s.dials_out(Some(phone), "017099988877");
    s.end(phone, "REDIRECTION_TO_NEW_DESTINATION");
    s.talk(caller, mobile);
    s.bye(caller);
    s.end(mobile, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 4917099988877 | normalClearing"]);
}

#[test]
fn a_colleague_rung_from_inside_sends_the_call_on_with_302() {
    // 1002 calls 1001, whose phone is forwarded to a mobile: 1002 calls that mobile.
    let mut s = Stream::new();
    let calling = s.phone("1002", "1001");
    let phone = s.rings(Some(calling), "1001");
    let mobile = s.dials_out(Some(phone), "017099988877");
    s.end(phone, "REDIRECTION_TO_NEW_DESTINATION");
    s.talk(calling, mobile);
    s.bye(calling);
    s.end(mobile, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["out 1002 -> 4917099988877: answered | normalClearing"]);
}

#[test]
fn a_call_is_parked_and_retrieved_by_a_colleague() {
    // valet_park: the customer is parked by 1001; 1002 dials the slot, uuid_bridge joins them, the retriever first.
    let (mut s, caller, phone) = talking();
    s.unbridge(caller, phone);
    s.end(phone, "NORMAL_CLEARING");
    let retriever = s.phone("1002", "6001");
    s.answer(retriever);
    s.bridge(retriever, caller);
    s.bye(caller);
    s.end(retriever, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001, 1002 | normalClearing"]);
}

#[test]
fn a_ringing_call_is_picked_up_by_a_colleague() {
    // intercept: 1002 dials *8, the switch answers that leg, the ringing phone is picked off.
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    let ringing = s.rings(Some(caller), "1001");
    let colleague = s.phone("1002", "*8");
    s.answer(colleague);
    s.answer(caller);
    s.bridge(caller, colleague);
    s.end(ringing, "PICKED_OFF");
    s.bye(caller);
    s.end(colleague, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1002 | normalClearing"]);
}

#[test]
fn a_callcenter_with_agents_who_stay_on_the_line() {
    // uuid-standby: the agent's leg is parked for hours and joined with one caller after another.
    let mut s = Stream::new();
    let agent = s.phone("1001", "*22");
    s.answer(agent);
    for _ in 0..3 {
        let caller = s.caller(CUSTOMER, DID);
        s.answer(caller);
        s.wait(30 * 60 * 1000);
        s.bridge(agent, caller);
        s.unbridge(agent, caller);
        s.bye(caller);
    }
    s.bye(agent);
    let one = "in 4915112345678 -> 49305551001: 1001 | normalClearing";
    assert_eq!(s.told(), [one, one, one]);
}

#[test]
fn a_fifo_that_rings_its_outside_member() {
    // The member is a mobile; only fifo_bridge_uuid names the caller. Answered there, no call of its own.
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    s.answer(caller);
    let waiting = s.id(caller);
    let member = s.outbound(
        None,
        &[
            ("Channel-Name", "sofia/external/017099988877"),
            ("Caller-Destination-Number", "017099988877"),
            ("variable_sip_gateway_name", "trunk"),
            ("variable_fifo_bridge_uuid", &waiting),
        ],
    );
    s.answer(member);
    s.bridge(member, caller);
    s.bye(caller);
    s.end(member, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 4917099988877 | normalClearing"]);
}

#[test]
fn a_number_is_tried_over_two_gateways_at_once() {
    let mut s = Stream::new();
    let phone = s.phone("1001", "017099988877");
    let one = s.dials_out(Some(phone), "+4917099988877");
    let two = s.dials_out(Some(phone), "017099988877");
    s.talk(phone, two);
    s.bye(two);
    s.end(phone, "NORMAL_CLEARING");
    // The loser's end is late, or never heard: it holds nothing up.
    assert_eq!(s.told(), ["out 1001 -> 4917099988877: answered | normalClearing"]);
    s.end(one, "LOSE_RACE");
    assert_eq!(s.told().len(), 1);
}

#[test]
fn two_numbers_are_tried_at_once() {
    // Two people were called; one answered. The other's phone stopped ringing.
    let mut s = Stream::new();
    let phone = s.phone("1001", "8000");
    let one = s.dials_out(Some(phone), "017099988877");
    let two = s.dials_out(Some(phone), "017011122233");
    s.answer(two);
    s.end(one, "LOSE_RACE");
    assert_eq!(s.tracker.open_calls(), 1, "a lost race is over at once");
    s.answer(phone);
    s.bridge(phone, two);
    s.bye(phone);
    s.end(two, "NORMAL_CLEARING");
    assert_eq!(
        s.told(),
        ["out 1001 -> 4917099988877: - | cancel", "out 1001 -> 4917011122233: answered | normalClearing"]
    );
}

#[test]
fn a_busy_number_is_over_when_its_dialler_goes_on_to_the_mailbox() {
    // continue_on_fail: the number was busy; the dialler is joined with a colleague instead.
    let mut s = Stream::new();
    let phone = s.phone("1001", "017099988877");
    let busy = s.dials_out(Some(phone), "017099988877");
    s.end(busy, "USER_BUSY");
    assert_eq!(s.tracker.open_calls(), 1, "another trunk may be tried");
    let colleague = s.rings(Some(phone), "1002");
    s.answer(colleague);
    s.answer(phone);
    s.bridge(phone, colleague);
    assert_eq!(s.tracker.open_calls(), 0);
    s.bye(phone);
    s.end(colleague, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["out 1001 -> 4917099988877: - | busy"]);
}

#[test]
fn an_originate_that_runs_out_of_time() {
    // bgapi originate {originate_timeout=20}…: nobody of ours, no answer.
    let mut s = Stream::new();
    let customer = s.dials_out(None, "017099988877");
    s.end(customer, "NO_ANSWER");
    assert_eq!(s.told(), ["out 4930555000 -> 4917099988877: - | noAnswer"]);
}

#[test]
fn a_program_calls_the_customer_first() {
    // Click to call from the customer's side: their phone rings first, then the agent's. `from` is what they saw.
    let mut s = Stream::new();
    let customer = s.dials_out(None, "017099988877");
    s.answer(customer);
    let phone = s.rings(Some(customer), "1001");
    s.answer(phone);
    s.bridge(customer, phone);
    s.bye(customer);
    s.end(phone, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["out 4930555000 -> 4917099988877: answered | normalClearing"]);
}

#[test]
fn a_program_that_says_for_whom_it_calls() {
    // {presence_id=1001@pbx…}sofia/gateway/…: the call is 1001's. Without a caller id FreeSWITCH sends ten zeros.
    let mut s = Stream::new();
    for presence in ["1001@pbx.example.test", ""] {
        let leg = s.outbound(
            None,
            &[
                ("Channel-Name", "sofia/external/017099988877"),
                ("Channel-Presence-ID", presence),
                ("Caller-Caller-ID-Number", "0000000000"),
                ("Caller-Destination-Number", "017099988877"),
                ("variable_sip_gateway_name", "trunk"),
            ],
        );
        s.end(leg, "USER_BUSY");
    }
    assert_eq!(s.told(), ["out 1001 -> 4917099988877: - | busy", "out anonymous -> 4917099988877: - | busy"]);
}

#[test]
fn the_dialplan_goes_on_to_a_second_agent() {
    // hangup_after_bridge=false: 1001 hangs up, the next bridge finds 1002.
    let (mut s, caller, phone) = talking();
    s.unbridge(caller, phone);
    s.bye(phone);
    let second = s.rings(Some(caller), "1002");
    s.answer(second);
    s.bridge(caller, second);
    s.bye(second);
    s.end(caller, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001, 1002 | normalClearing"]);
}

#[test]
fn bridges_that_are_repeated_answer_once() {
    // uuid_broadcast, uuid_media, a re-INVITE: the same pair is parted and joined again. A leg joined with itself
    // (a bug in a script) is nobody.
    let (mut s, caller, phone) = talking();
    s.bridge(caller, caller);
    for _ in 0..3 {
        s.unbridge(caller, phone);
        s.bridge(phone, caller);
        s.bridge(caller, phone);
    }
    s.bye(caller);
    s.end(phone, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001 | normalClearing"]);
}

#[test]
fn a_conference_is_answered_by_whoever_receives_the_caller() {
    // 1001 and 1002 sit in it; the customer enters and is received once; then 1003 comes in.
    let mut s = Stream::new();
    let ours: Vec<_> = ["1001", "1002"].map(|extension| s.phone(extension, "3000")).into();
    for leg in &ours {
        s.answer(*leg);
        s.conference(*leg, "add-member");
    }
    let caller = s.caller(CUSTOMER, DID);
    s.answer(caller);
    s.conference(caller, "add-member");
    let late = s.phone("1003", "3000");
    s.answer(late);
    s.conference(late, "add-member");
    s.conference(caller, "del-member");
    s.bye(caller);
    for leg in ours.into_iter().chain([late]) {
        s.conference(leg, "del-member");
        s.bye(leg);
    }
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001, 1003 | normalClearing"]);
}

#[test]
fn two_customers_in_a_conference_are_no_answer_to_each_other() {
    let mut s = Stream::new();
    let callers = [CUSTOMER, "+4915199999999"].map(|number| s.caller(number, DID));
    for leg in callers {
        s.answer(leg);
        s.conference(leg, "add-member");
    }
    for leg in callers {
        s.bye(leg);
    }
    assert_eq!(
        s.told(),
        ["in 4915112345678 -> 49305551001: - | cancel", "in 4915199999999 -> 49305551001: - | cancel"]
    );
}

#[test]
fn everybody_is_thrown_out() {
    // hupall, and uuid_kill of a caller who waits.
    let (mut s, caller, phone) = talking();
    let waiting = s.caller("+4915199999999", DID);
    for leg in [caller, phone, waiting] {
        s.end(leg, "MANAGER_REQUEST");
    }
    assert_eq!(
        s.told(),
        [
            "in 4915112345678 -> 49305551001: 1001 | normalClearing",
            "in 4915199999999 -> 49305551001: - | noAnswer"
        ]
    );
}

#[test]
fn an_id_that_goes_over_to_another_leg_ends_the_call_of_the_one_that_had_it() {
    // Two callers; the end of the second was not heard, and the first takes over its id.
    let mut s = Stream::new();
    let first = s.caller(CUSTOMER, DID);
    let second = s.caller("+4915199999999", DID);
    let id = s.id(second);
    s.rename(first, &id);
    assert_eq!(s.tracker.open_calls(), 1);
    s.ends(first, "ORIGINATOR_CANCEL", "recv_cancel");
    assert_eq!(
        s.told(),
        ["in 4915112345678 -> 49305551001: - | cancel", "in 4915199999999 -> 49305551001: - | noAnswer"]
    );
    assert_eq!(s.tracker.live_legs().count(), 0);
}

#[test]
fn a_leg_that_goes_by_another_id_stands_when_its_first_one_returns() {
    let mut s = Stream::new();
    let headers = |from: &'static str| {
        let mut headers = Stream::caller_headers("sofia/external/x@provider.example.test", from, DID);
        headers.push(("Unique-ID", "desk"));
        headers
    };
    let first = s.create(&headers(CUSTOMER));
    s.rename(first, "moved");
    let second = s.create(&headers("+4915199999999"));
    assert_eq!(s.tracker.open_calls(), 2);
    s.ends(first, "ORIGINATOR_CANCEL", "recv_cancel");
    s.end(second, "USER_BUSY");
    assert_eq!(
        s.told(),
        ["in 4915112345678 -> 49305551001: - | cancel", "in 4915199999999 -> 49305551001: - | busy"]
    );
}

#[test]
fn a_leg_that_names_itself_as_its_other_is_one_leg() {
    let mut s = Stream::new();
    let own = "00000000-0000-4000-8000-000000000000";
    let leg = s.outbound(
        None,
        &[
            ("Unique-ID", own),
            ("Other-Type", "originator"),
            ("Other-Leg-Unique-ID", own),
            ("Other-Leg-Channel-Name", "sofia/external/x"),
            ("Channel-Name", "sofia/external/+4915112345678"),
            ("Caller-Destination-Number", "+4915112345678"),
            ("variable_sip_gateway_name", "trunk"),
        ],
    );
    assert_eq!(s.tracker.legs(), 1);
    s.end(leg, "USER_BUSY");
    assert_eq!((s.tracker.live_legs().count(), s.tracker.open_calls()), (0, 0));
}

#[test]
fn a_former_id_that_is_another_legs_stays_that_legs() {
    let mut s = Stream::new();
    let other = "00000000-0000-4000-8000-00000000000b";
    s.send(&[
        ("Event-Name", "CHANNEL_UUID"),
        ("Unique-ID", "00000000-0000-4000-8000-00000000000a"),
        ("Old-Unique-ID", other),
        ("Call-Direction", "outbound"),
        ("Channel-Name", "sofia/internal/1001"),
        ("Other-Type", "originator"),
        ("Other-Leg-Unique-ID", other),
        ("Other-Leg-Channel-Name", "sofia/internal/1002"),
    ]);
    assert_eq!(s.tracker.legs(), 2);
    for leg in s.tracker.live_legs().map(str::to_owned).collect::<Vec<_>>() {
        s.tracker.vanished(&leg, s.now);
    }
    assert_eq!(s.tracker.live_legs().count(), 0);
}

#[test]
fn a_leg_is_renamed_in_the_middle() {
    // uuid_setvar-like renames: both legs of a call get other ids; the callId stays.
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    s.rename(caller, "my-caller");
    let phone = s.rings(Some(caller), "1001");
    s.rename(phone, "my-phone");
    s.talk(caller, phone);
    s.rename(caller, "my-caller-2");
    s.bye(caller);
    s.end(phone, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001 | normalClearing"]);
    assert!(s.bodies().iter().all(|body| body.contains("00000000-0000-4000-8000-000000000000")));
}

#[test]
fn an_id_that_an_application_chose_comes_back() {
    let mut s = Stream::new();
    for lost in [false, true, false] {
        let caller = s.create(
            &[Stream::caller_headers("sofia/external/x", CUSTOMER, DID), vec![("Unique-ID", "crm-7")]]
                .concat(),
        );
        if !lost {
            s.bye(caller);
        }
        s.wait(1000);
    }
    // The second one's end was not heard: it is over when its id returns.
    assert_eq!(
        s.told(),
        [
            "in 4915112345678 -> 49305551001: - | cancel",
            "in 4915112345678 -> 49305551001: - | noAnswer",
            "in 4915112345678 -> 49305551001: - | cancel"
        ]
    );
}

#[test]
fn a_leg_that_is_born_dead() {
    // The INVITE could not be built: CREATE says hangup already; the end follows.
    let mut s = Stream::new();
    let phone = s.phone("1001", "017099988877");
    let dead = s.outbound(
        Some(phone),
        &[
            ("Channel-Name", "sofia/external/017099988877"),
            ("Caller-Destination-Number", "017099988877"),
            ("variable_sip_gateway_name", "trunk"),
            ("Answer-State", "hangup"),
        ],
    );
    s.end(dead, "DESTINATION_OUT_OF_ORDER");
    s.end(phone, "DESTINATION_OUT_OF_ORDER");
    assert_eq!(s.told(), ["out 1001 -> 4917099988877: - | congestion"]);
}

#[test]
fn the_switch_restarts_and_recovers_a_call() {
    // sofia recover brings the legs back in a new run, with their old ids. The first stay is over, a second begins.
    let (mut s, caller, phone) = talking();
    s.send(&[("Event-Name", "HEARTBEAT"), ("Core-UUID", "run-2")]);
    assert_eq!(s.tracker.open_calls(), 0);
    for leg in [caller, phone] {
        s.set(leg, "Core-UUID", "run-2");
        s.event("CHANNEL_CREATE", leg, &[]);
    }
    s.bridge(caller, phone);
    s.bye(caller);
    s.end(phone, "NORMAL_CLEARING");
    let stay = "in 4915112345678 -> 49305551001: 1001 | normalClearing";
    assert_eq!(s.told(), [stay, stay]);
}

#[test]
fn listening_begins_in_the_middle_of_a_call() {
    // The phone rang when the link came up: the first that is heard is its answer, then the bridge.
    let mut s = Stream::new();
    let caller = s.unheard(&Stream::caller_headers("sofia/external/x@provider", CUSTOMER, DID));
    let phone = s.unheard(&[
        ("Call-Direction", "outbound"),
        ("Channel-Name", "sofia/internal/1001@10.0.0.5"),
        ("Caller-Destination-Number", "1001"),
        ("variable_dialed_user", "1001"),
    ]);
    // A transfer has rewritten what was dialled; the request has not changed.
    s.set(caller, "Caller-Destination-Number", "1001");
    s.set(caller, "Caller-Context", "default");
    let other = s.id(caller);
    s.set(phone, "Answer-State", "answered");
    s.event(
        "CHANNEL_ANSWER",
        phone,
        &[
            ("Other-Type", "originator"),
            ("Other-Leg-Unique-ID", &other),
            ("Other-Leg-Channel-Name", "sofia/external/x@provider"),
            ("Other-Leg-Direction", "inbound"),
            ("Other-Leg-Context", "default"),
            ("Other-Leg-Caller-ID-Number", CUSTOMER),
        ],
    );
    assert!(s.bodies().is_empty(), "the caller may be gone");
    s.set(caller, "Answer-State", "answered");
    s.bridge(caller, phone);
    s.bye(caller);
    s.end(phone, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001 | normalClearing"]);
}

#[test]
fn an_end_without_a_beginning_is_no_call() {
    let mut s = Stream::new();
    let caller = s.unheard(&Stream::caller_headers("sofia/external/x", CUSTOMER, DID));
    s.bye(caller);
    s.event("CHANNEL_CREATE", caller, &[]);
    s.event("CHANNEL_DATA", caller, &[]);
    assert!(s.told().is_empty());
}

#[test]
fn a_supervisor_who_listens_is_no_call() {
    let (mut s, caller, phone) = talking();
    let supervisor = s.phone("1003", "*33");
    s.answer(supervisor);
    s.bye(supervisor);
    s.bye(caller);
    s.end(phone, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 1001 | normalClearing"]);
}

#[test]
fn a_loopback_that_bows_out_after_the_answer() {
    // Follow-me over loopback to a mobile; both halves leave once the real legs are joined.
    let mut s = Stream::new();
    let caller = s.caller(CUSTOMER, DID);
    let a = s.outbound(
        Some(caller),
        &[("Channel-Name", "loopback/mobile-a"), ("Caller-Destination-Number", "017099988877")],
    );
    let a_id = s.id(a);
    let b = s.create(&[
        ("Call-Direction", "inbound"),
        ("Channel-Name", "loopback/mobile-b"),
        ("Caller-Caller-ID-Number", CUSTOMER),
        ("variable_other_loopback_leg_uuid", &a_id),
        ("variable_other_loopback_from_uuid", &a_id),
    ]);
    let mobile = s.dials_out(Some(b), "017099988877");
    for leg in [mobile, b, a, caller] {
        s.answer(leg);
    }
    s.bridge(b, mobile);
    s.bridge(caller, a);
    s.unbridge(caller, a);
    s.end(a, "NORMAL_UNSPECIFIED");
    s.end(b, "NORMAL_UNSPECIFIED");
    s.bridge(caller, mobile);
    s.bye(caller);
    s.end(mobile, "NORMAL_CLEARING");
    assert_eq!(s.told(), ["in 4915112345678 -> 49305551001: 4917099988877 | normalClearing"]);
}

#[test]
fn internal_calls_are_told_only_on_request() {
    for internal in [false, true] {
        let mut s = Stream::with(Settings { internal, ..settings() });
        let calling = s.phone("1001", "2000");
        let first = s.rings(Some(calling), "1002");
        let second = s.rings(Some(calling), "1003");
        s.talk(calling, second);
        s.end(first, "LOSE_RACE");
        s.bye(calling);
        s.end(second, "NORMAL_CLEARING");
        // Busy, a service code, a colleague who is asked during a customer's call.
        let calling = s.phone("1002", "1001");
        let busy = s.rings(Some(calling), "1001");
        s.end(busy, "USER_BUSY");
        s.end(calling, "USER_BUSY");
        let service = s.phone("1001", "*98");
        s.answer(service);
        s.bye(service);
        let told: &[&str] = if internal {
            &["out 1001 -> 2000: answered | normalClearing", "out 1002 -> 1001: - | busy"]
        } else {
            &[]
        };
        assert_eq!(s.told(), told);
    }
}

#[test]
fn telling_internal_calls_changes_no_other() {
    let told = |internal| {
        let mut s = Stream::with(Settings { internal, ..settings() });
        // A ring group of a colleague and a mobile, called from inside: the mobile is an outbound call either way.
        let calling = s.phone("1001", "2000");
        let desk = s.rings(Some(calling), "1002");
        let mobile = s.dials_out(Some(calling), "017099988877");
        s.talk(calling, mobile);
        s.end(desk, "LOSE_RACE");
        s.bye(calling);
        s.end(mobile, "NORMAL_CLEARING");
        // A customer's call, with a colleague asked and brought in.
        let caller = s.caller(CUSTOMER, DID);
        let phone = s.rings(Some(caller), "1001");
        s.talk(caller, phone);
        let asking = s.phone("1001", "1002");
        let asked = s.rings(Some(asking), "1002");
        s.talk(asking, asked);
        s.unbridge(caller, phone);
        s.unbridge(asking, asked);
        s.bridge(caller, asked);
        s.end(asking, "ATTENDED_TRANSFER");
        s.end(phone, "ATTENDED_TRANSFER");
        s.bye(caller);
        s.end(asked, "NORMAL_CLEARING");
        s.told()
    };
    let without = told(false);
    assert_eq!(
        without,
        [
            "out 1001 -> 4917099988877: answered | normalClearing",
            "in 4915112345678 -> 49305551001: 1001, 1002 | normalClearing"
        ]
    );
    let with = told(true);
    assert_eq!(with.len(), 4);
    assert!(without.iter().all(|call| with.contains(call)));
    assert!(with.contains(&"out 1001 -> 1002: answered | normalClearing".to_owned()), "{with:?}");
}
