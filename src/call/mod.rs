//! What is going on: legs become calls, and calls are told as a person would tell them.
//!
//! > A call is an outside party's stay on the switch. It begins when their leg is created, is answered each time
//! > a new person on our side is connected to them, and ends when their leg ends.
//!
//! Pure: no socket, no clock, no store, nothing of how Zammad is reached. The only place that knows both
//! FreeSWITCH's headers and the CTI's words.

mod book;
pub mod cause;
pub mod cdr;
mod connection;
mod kin;
pub mod leg;
pub mod model;
pub mod number;
pub mod people;
pub mod route;
pub mod rule;
pub mod tracker;

/// Every header that is asked for: what a listener, a recording or a filter must keep for calls to be told right.
pub const HEADERS: [&str; 70] = [
    "Action",
    "Answer-State",
    "Bridge-A-Unique-ID",
    "Bridge-B-Unique-ID",
    "Call-Direction",
    "Caller-Caller-ID-Number",
    "Caller-Channel-Created-Time",
    "Caller-Context",
    "Caller-Destination-Number",
    "Caller-Orig-Caller-ID-Number",
    "Caller-Privacy-Hide-Number",
    "Channel-Name",
    "Channel-Presence-ID",
    "Conference-Name",
    "Core-UUID",
    "Event-Date-Timestamp",
    "Event-Name",
    "Event-Subclass",
    "Hangup-Cause",
    "Old-Unique-ID",
    "Other-Leg-Caller-ID-Number",
    "Other-Leg-Channel-Created-Time",
    "Other-Leg-Channel-Name",
    "Other-Leg-Context",
    "Other-Leg-Destination-Number",
    "Other-Leg-Direction",
    "Other-Leg-Orig-Caller-ID-Number",
    "Other-Leg-Privacy-Hide-Number",
    "Other-Leg-Unique-ID",
    "Other-Type",
    "Unique-ID",
    "variable_bridge_to",
    "variable_bridge_uuid",
    "variable_cc_member_session_uuid",
    "variable_cc_queue",
    "variable_conference_name",
    "variable_current_application",
    "variable_current_application_data",
    "variable_dialed_domain",
    "variable_dialed_extension",
    "variable_dialed_user",
    "variable_domain_name",
    "variable_effective_caller_id_number",
    "variable_endpoint_disposition",
    "variable_ent_originate_aleg_uuid",
    "variable_fifo_bridge_uuid",
    "variable_loopback_app",
    "variable_originate_disposition",
    "variable_originating_leg_uuid",
    "variable_originator",
    "variable_other_loopback_from_uuid",
    "variable_other_loopback_leg_uuid",
    "variable_outbound_caller_id_number",
    "variable_send_to_voicemail",
    "variable_sip_Privacy",
    "variable_sip_Remote-Party-ID",
    "variable_sip_acl_token",
    "variable_sip_auth_username",
    "variable_sip_from_host",
    "variable_sip_from_user",
    "variable_sip_gateway",
    "variable_sip_gateway_name",
    "variable_sip_h_Privacy",
    "variable_sip_hangup_disposition",
    "variable_sip_profile_name",
    "variable_sip_req_user",
    "variable_sip_to_user",
    "variable_sofia_profile_name",
    "variable_user_name",
    "variable_verto_user",
];
