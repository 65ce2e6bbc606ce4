//! Who a leg belongs to, read once at its CHANNEL_CREATE.
//!
//! The marks are asked in the order in which they can be trusted: the operator's rules, loopback, a gateway
//! name (it makes a leg outside whatever else it carries), a login, a dialled user. Marks that deceive are not
//! asked: `sip_authorized` (an ACL sets it on trunks), `Channel-Presence-ID` of inbound legs (a profile with
//! `manage-presence` puts it on every caller), `call_direction`, anything that the bridge writes later.
//! What has no mark is judged by context, profile and the form of the number.
//!
//! A login whose From is somebody else's public number is a trunk that registered with us (a gateway of
//! its own, another PBX): a phone puts its user there, or a number of its own. In doubt a leg is outside: a phone
//! taken for a caller is an entry too many, a caller taken for a phone is a customer lost.

use std::fmt;

use super::number;
use super::rule::Rule;
use crate::esl::event::Event;
use crate::time::UnixMillis;

/// Who a leg belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The world: a trunk, a peer.
    Outside,
    /// One of our people's phones.
    Ours,
    /// A helper of the switch, nobody's phone.
    Plumbing,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "outside",
            Self::Ours => "ours",
            Self::Plumbing => "plumbing",
        })
    }
}

/// Which way a leg was set up, as the switch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The other side called the switch.
    Inbound,
    /// The switch called the other side.
    Outbound,
}

/// A leg as its CHANNEL_CREATE shows it: only what the call model asks for, decoded.
#[derive(Clone, Debug)]
pub struct Created {
    /// Unique-ID; need not be a UUID.
    pub id: String,
    /// Call-Direction.
    pub way: Way,
    /// Channel-Name.
    pub channel: String,
    /// SIP profile; empty for other endpoints.
    pub profile: String,
    /// Caller-Context.
    pub context: String,
    /// Gateway name, of either direction.
    pub gateway: Option<String>,
    /// The caller's number as shown; `None` if withheld or absent.
    pub caller: Option<String>,
    /// What was dialled.
    pub dialled: String,
    /// The number in the To header: what was dialled, where a registered trunk puts its account name into the request.
    pub to_user: Option<String>,
    /// `user` and `domain` of a phone that logged in.
    pub login: Option<(String, Option<String>)>,
    /// The public number in From that is none of the user's who logged in.
    pub speaks_for: Option<String>,
    /// `user` and `domain` that an outbound leg was dialled as.
    pub dialled_user: Option<(String, Option<String>)>,
    /// `user` and `domain` whose presence an outbound leg carries: a weaker mark, click-to-call sets it on trunk legs.
    pub presence: Option<(String, Option<String>)>,
    /// A number for a user whose name is none.
    pub alias: Option<String>,
    /// Whether an ACL admitted it as a directory user whose number it also presents.
    pub trusted_user: Option<String>,
    /// The other half, for a loopback leg.
    pub twin: Option<String>,
    /// Legs that may have caused this one, likeliest first.
    pub ties: Vec<String>,
    /// The voicemail runs on this loopback leg.
    pub mailbox: bool,
    /// The callcenter queue that it is in, if it says so already.
    pub queue: Option<String>,
    /// It has been answered.
    pub answered: bool,
    /// When it was made, by the switch's clock.
    pub at: Option<UnixMillis>,
}

impl Created {
    /// Reads a CHANNEL_CREATE (or CHANNEL_DATA). `None` without a Unique-ID.
    #[must_use]
    pub fn read(event: &Event) -> Option<Self> {
        let text = |name: &str| event.some(name).map(|v| v.into_owned());
        let way = if event.is("Call-Direction", "inbound") { Way::Inbound } else { Way::Outbound };
        let channel = text("Channel-Name").unwrap_or_default();
        let id = text("Unique-ID")?;
        let user = text("variable_user_name");
        let from = text("variable_sip_from_user");
        let loopback = channel.starts_with("loopback/");
        let login = match (text("variable_sip_auth_username"), &user, text("variable_verto_user")) {
            (Some(_), Some(user), _) => Some((user.clone(), text("variable_domain_name"))),
            // A browser's channel is named after what it dials; who it is stands only here.
            (None, _, Some(user)) => Some(split_user(&user)),
            (Some(_) | None, _, _) => None,
        }
        .filter(|_| way == Way::Inbound);
        Some(Self {
            way,
            profile: text("variable_sofia_profile_name")
                .or_else(|| text("variable_sip_profile_name"))
                .unwrap_or_else(|| channel.split('/').nth(1).unwrap_or_default().to_owned()),
            context: text("Caller-Context").unwrap_or_default(),
            gateway: text("variable_sip_gateway_name").or_else(|| text("variable_sip_gateway")),
            caller: text("Caller-Caller-ID-Number").filter(|_| !is_private(event)),
            dialled: text("Caller-Destination-Number").unwrap_or_default(),
            to_user: text("variable_sip_to_user"),
            speaks_for: login.as_ref().and_then(|(user, _)| speaks_for(event, user, from.as_deref())),
            login,
            dialled_user: text("variable_dialed_user")
                .filter(|_| way == Way::Outbound)
                .map(|user| (user, text("variable_dialed_domain"))),
            presence: text("Channel-Presence-ID").filter(|_| way == Way::Outbound).map(|p| split_user(&p)),
            alias: match way {
                Way::Outbound => text("variable_dialed_extension"),
                Way::Inbound => text("variable_effective_caller_id_number"),
            }
            .filter(|a| number::looks_like_extension(a)),
            trusted_user: match (text("variable_sip_acl_token"), user, from) {
                (Some(_), Some(user), Some(from)) if user == from => Some(user),
                _ => None,
            },
            twin: text("variable_other_loopback_leg_uuid").filter(|_| loopback),
            ties: ties(event, &id),
            mailbox: loopback && event.is("variable_loopback_app", "voicemail"),
            queue: text("variable_cc_queue"),
            answered: event.is("Answer-State", "answered"),
            at: moment(event, "Caller-Channel-Created-Time"),
            id,
            channel,
        })
    }

    /// The number of the person at one of our legs, as they are dialled: for `answeringNumber` and `from`.
    #[must_use]
    pub fn extension(&self) -> &str {
        let known = self.user();
        let shown = match self.way {
            Way::Inbound => self.caller.as_deref().unwrap_or_default(),
            Way::Outbound => number::user_part(&self.dialled),
        };
        match (known, &self.alias) {
            // A user can be called by a name; then the number stands elsewhere.
            (Some(user), Some(alias)) if !user.bytes().all(|b| b.is_ascii_digit()) => alias,
            (Some(user), _) => user,
            // A socket on a card has no number; its place is all that tells it from others.
            (None, _) if shown.is_empty() => &self.channel,
            (None, _) => shown,
        }
    }

    /// Who had a program dial this outbound leg, if it carries their presence: click-to-call.
    #[must_use]
    pub fn wished_by(&self) -> Option<&(String, Option<String>)> {
        self.presence.as_ref().filter(|(user, _)| user != number::user_part(&self.dialled))
    }

    /// The directory user that it logged in as, or is dialled as.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self.way {
            Way::Inbound => {
                self.login.as_ref().map(|(user, _)| user.as_str()).or(self.trusted_user.as_deref())
            }
            Way::Outbound => self.dialled_as().map(|(user, _)| user.as_str()),
        }
    }

    /// The domain of the person at one of our legs, where the switch serves several.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        match self.way {
            Way::Inbound => self.login.as_ref().and_then(|(_, domain)| domain.as_deref()),
            Way::Outbound => self.dialled_as().and_then(|(_, domain)| domain.as_deref()),
        }
    }

    const fn dialled_as(&self) -> Option<&(String, Option<String>)> {
        match &self.dialled_user {
            Some(user) => Some(user),
            None => self.presence.as_ref(),
        }
    }

    /// The number that an outside caller dialled.
    #[must_use]
    pub fn called_number(&self) -> &str {
        match &self.to_user {
            // A trunk's request can name our account, or only the last digits; the number dialled is then in To.
            Some(to) if !number::looks_public(&self.dialled) && number::looks_public(to) => to,
            Some(_) | None => &self.dialled,
        }
    }

    /// The same leg, read from a later event: what transfer and bridge have rewritten is taken from the SIP request.
    #[must_use]
    pub fn late(mut self, event: &Event) -> Self {
        if self.way == Way::Inbound {
            if let Some(requested) = event.some("variable_sip_req_user") {
                self.dialled = requested.into_owned();
            }
            if self.caller.is_some()
                && let Some(first) = event.some("Caller-Orig-Caller-ID-Number")
            {
                self.caller = Some(first.into_owned());
            }
        }
        self
    }

    /// What another leg's headers say of the leg that caused it.
    #[must_use]
    pub fn from_other_leg(event: &Event, id: &str) -> Option<Self> {
        let text = |name: &str| event.some(name).map(|v| v.into_owned());
        let channel = text("Other-Leg-Channel-Name")?;
        let way = if event.is("Other-Leg-Direction", "inbound") { Way::Inbound } else { Way::Outbound };
        let hidden = event.is("Other-Leg-Privacy-Hide-Number", "true");
        Some(Self {
            id: id.to_owned(),
            way,
            profile: channel.split('/').nth(1).unwrap_or_default().to_owned(),
            context: text("Other-Leg-Context").unwrap_or_default(),
            gateway: None,
            caller: text("Other-Leg-Orig-Caller-ID-Number")
                .or_else(|| text("Other-Leg-Caller-ID-Number"))
                .filter(|_| !hidden),
            dialled: text("Other-Leg-Destination-Number").unwrap_or_default(),
            to_user: None,
            login: None,
            speaks_for: None,
            dialled_user: None,
            presence: None,
            alias: None,
            trusted_user: None,
            twin: None,
            ties: Vec::new(),
            mailbox: false,
            queue: None,
            answered: false,
            at: moment(event, "Other-Leg-Channel-Created-Time"),
            channel,
        })
    }

    /// The kind of channel, in lower case: modules disagree on capitals (`FreeTDM`, `SKINNY`).
    fn endpoint(&self) -> String {
        self.channel.split('/').next().unwrap_or_default().to_ascii_lowercase()
    }
}

/// Who a leg belongs to, and what says so.
#[must_use]
pub fn classify(leg: &Created, rules: &[Rule]) -> (Side, Mark) {
    if let Some((at, rule)) = rules.iter().enumerate().find(|(_, rule)| rule.matches(leg)) {
        return (rule.side, Mark::Rule(at));
    }
    let endpoint = leg.endpoint();
    if matches!(&*endpoint, "loopback" | "null" | "error" | "pause" | "pickup" | "modem") {
        return (Side::Plumbing, Mark::Endpoint(endpoint));
    }
    if let Some(gateway) = &leg.gateway {
        return (Side::Outside, Mark::Gateway(gateway.clone()));
    }
    match leg.way {
        Way::Inbound => classify_inbound(leg),
        Way::Outbound => classify_outbound(leg),
    }
}

fn classify_inbound(leg: &Created) -> (Side, Mark) {
    if let Some((user, _)) = &leg.login {
        return match &leg.speaks_for {
            Some(_) => (Side::Outside, Mark::TrunkLogin(user.clone())),
            None => (Side::Ours, Mark::Login(user.clone())),
        };
    }
    if let Some(user) = &leg.trusted_user {
        return (Side::Ours, Mark::TrustedUser(user.clone()));
    }
    let caller = leg.caller.as_deref().unwrap_or_default();
    match &*leg.endpoint() {
        "sofia" => {
            // Only an unauthenticated phone on the phones' own profile and context is left; a caller taken for
            // a phone would vanish, a phone taken for a caller is merely one entry too many.
            let phone = leg.profile.starts_with("internal")
                && leg.context != "public"
                && number::looks_like_extension(caller);
            (if phone { Side::Ours } else { Side::Outside }, unmarked(leg, caller))
        }
        endpoint => (side_of_endpoint(endpoint), Mark::Endpoint(endpoint.to_owned())),
    }
}

fn classify_outbound(leg: &Created) -> (Side, Mark) {
    let dialled = number::user_part(&leg.dialled);
    if let Some((user, _)) = &leg.dialled_user {
        return (Side::Ours, Mark::DialledAs(user.clone()));
    }
    if let Some((user, _)) = &leg.presence
        && (user == dialled || !number::looks_public(dialled))
    {
        return (Side::Ours, Mark::DialledAs(user.clone()));
    }
    match &*leg.endpoint() {
        "sofia" => {
            let trunk = leg.profile.starts_with("external") || number::looks_public(dialled);
            (if trunk { Side::Outside } else { Side::Ours }, unmarked(leg, dialled))
        }
        endpoint => (side_of_endpoint(endpoint), Mark::Endpoint(endpoint.to_owned())),
    }
}

fn unmarked(leg: &Created, number: &str) -> Mark {
    let form = if number::looks_public(number) {
        "a public number"
    } else if number::looks_like_extension(number) {
        "an extension"
    } else {
        "no number"
    };
    Mark::Unmarked { profile: leg.profile.clone(), context: leg.context.clone(), form }
}

/// Endpoints other than SIP: browsers and desk phones are ours, cards and gateways are lines.
fn side_of_endpoint(endpoint: &str) -> Side {
    match endpoint {
        "verto.rtc" | "verto" | "rtc" | "rtmp" | "skinny" | "portaudio" | "alsa" => Side::Ours,
        _ => Side::Outside,
    }
}

/// What a classification rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The configured rule with this index.
    Rule(usize),
    /// The kind of endpoint.
    Endpoint(String),
    /// A gateway name.
    Gateway(String),
    /// It logged in as this user.
    Login(String),
    /// It logged in as this user and calls for somebody else's public number.
    TrunkLogin(String),
    /// An ACL admitted it as this user, whose number it presents.
    TrustedUser(String),
    /// It was dialled as this user.
    DialledAs(String),
    /// Nothing marks it: profile, context and the form of the number had to do.
    Unmarked {
        /// SIP profile.
        profile: String,
        /// Dialplan context.
        context: String,
        /// What the far number looks like.
        form: &'static str,
    },
    /// Known only from another leg's headers.
    Hearsay,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(at) => write!(f, "rule {} of the configuration", at + 1),
            Self::Endpoint(endpoint) => write!(f, "it is a {endpoint} channel"),
            Self::Gateway(gateway) => write!(f, "it runs over the gateway {gateway}"),
            Self::Login(user) => write!(f, "it logged in as user {user}"),
            Self::TrunkLogin(user) => write!(
                f,
                "it logged in as user {user} but its From is a public number of somebody else, as a trunk's is"
            ),
            Self::TrustedUser(user) => write!(f, "its address belongs to user {user}"),
            Self::DialledAs(user) => write!(f, "it was dialled as user {user}"),
            Self::Unmarked { profile, context, form } => {
                write!(
                    f,
                    "nothing marks it; profile {profile:?}, context {context:?}, its far side is {form}"
                )
            }
            Self::Hearsay => f.write_str("its creation was not heard; another leg names it"),
        }
    }
}

/// A caller who asked for privacy, whatever number the provider shows us.
fn is_private(event: &Event) -> bool {
    let asks = |header: &str| {
        event.some(header).is_some_and(|v| {
            v.split([';', ','])
                .any(|p| matches!(p.trim().to_ascii_lowercase().as_str(), "id" | "user" | "header" | "full"))
        })
    };
    event.is("Caller-Privacy-Hide-Number", "true")
        // RFC 3323's way to say it without a word more; at a provider's own host it may be a mere lack of a number.
        || event.is("variable_sip_from_host", "anonymous.invalid")
        || asks("variable_sip_Privacy")
        || asks("variable_sip_h_Privacy")
        || event
            .some("variable_sip_Remote-Party-ID")
            .map(|rpid| rpid.to_ascii_lowercase())
            .is_some_and(|rpid| rpid.contains("privacy=full") || rpid.contains("privacy=uri"))
}

/// Who caused this leg. Read at CREATE only: bridge and transfer rewrite the headers.
fn ties(event: &Event, id: &str) -> Vec<String> {
    let originator = event
        .some("Other-Leg-Unique-ID")
        .filter(|_| event.is("Other-Type", "originator"))
        .map(|v| v.into_owned());
    let named = [
        "variable_originating_leg_uuid",
        "variable_originator",
        "variable_ent_originate_aleg_uuid",
        "variable_other_loopback_from_uuid",
        "variable_cc_member_session_uuid",
        "variable_fifo_bridge_uuid",
    ]
    .into_iter()
    .filter_map(|name| event.some(name).map(|v| v.into_owned()));
    let mut ties: Vec<String> = originator.into_iter().chain(named).filter(|tie| tie != id).collect();
    ties.dedup();
    ties
}

/// The public number in From, if the user who logged in has no part in it: not named so, not their caller id, and
/// no direct number that ends in their extension.
fn speaks_for(event: &Event, user: &str, from: Option<&str>) -> Option<String> {
    const EXTENSION_MIN: usize = 3;
    let from = from.filter(|from| number::looks_public(from))?;
    let own = ["variable_effective_caller_id_number", "variable_outbound_caller_id_number"]
        .into_iter()
        .filter_map(|header| event.some(header))
        .any(|own| number::same_subscriber(&own, from));
    let direct = user.len() >= EXTENSION_MIN && from.ends_with(user);
    (!own && !direct && !number::same_subscriber(user, from)).then(|| from.to_owned())
}

fn moment(event: &Event, header: &str) -> Option<UnixMillis> {
    let micros = event.some(header)?.parse::<u64>().ok().filter(|micros| *micros > 0)?;
    Some(UnixMillis(micros / 1000))
}

fn split_user(presence: &str) -> (String, Option<String>) {
    match presence.split_once('@') {
        Some((user, domain)) => (user.to_owned(), Some(domain.to_owned())),
        None => (presence.to_owned(), None),
    }
}
