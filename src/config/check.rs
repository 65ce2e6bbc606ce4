//! Raw values in, checked ones out. Each function reports all that it finds and returns `None` if anything it
//! needs is missing or wrong; whoever calls it goes on to the next, so that nobody mends faults one by one.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::admin;
use super::document::{Given, nearest};
use super::fault::{Origin, Report, Unfit};
use super::measure::{Seen, bounded, every, one_of, optional, parse, required, secret, short_enough};
use super::outbox;
use super::overlay::{FILE_BYTES_MAX, read_text};
use super::raw::{
    Place, RawAgent, RawConfig, RawDelivery, RawQueue, RawRoute, RawRule, RawSecret, RawSwitch, RawZammad,
};
use super::secret::Password;
use super::values::{Address, CauseName, Extension, LogLevel, Number, SwitchName, ZammadName};
use super::{
    Agent, Calls, Config, CtiUrl, Delivery, Log, LogFormat, QueueName, SwitchConfig, WhenFull, ZammadConfig,
};
use crate::call::cause::{ROWS, find};
use crate::call::leg::{Side, Way};
use crate::call::number::{Country, UnknownCountry};
use crate::call::route::Route;
use crate::call::rule::{Glob, Rule};
use crate::cti::cause::Cause;
use crate::cti::client::Tls;
use crate::cti::event::VOICEMAIL;
use crate::queue::line::LatePolicy;

const DEFAULT_STATE_DIR: &str = "/var/lib/freeswitch-zammad";
const DEFAULT_ADDRESS: &str = "127.0.0.1:8021";
const DEFAULT_NAME: &str = "main";
const DEFAULT_LOG_LEVEL: &str = "info";
/// Below this a healthy switch with its ordinary beat of 20 s is in danger of being taken for dead.
const HEARTBEAT_TIMEOUT_S_SAFE: u64 = 45;

/// Checks everything. `None` means that at least one fault was reported; `Some` does not mean that none was.
pub(super) fn config(raw: RawConfig, report: &mut Report) -> Option<Config> {
    let country = country(raw.country.as_ref(), report);
    let state_dir = raw.state_dir.map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), |given| given.value);

    let zammad_names = names::<ZammadName>(raw.zammads.iter().map(|z| (&z.place, z.name.as_ref())), report);
    let switch_names = names::<SwitchName>(raw.switches.iter().map(|s| (&s.place, s.name.as_ref())), report);

    let mut urls = Seen::new("each Zammad once is enough: several switches can name the same one");
    let zammads = raw.zammads.into_iter().zip(zammad_names.iter().cloned());
    let zammads = every(zammads.map(|(raw, name)| zammad(raw, name, &mut urls, report)));

    let only_switch = raw.switches.len() == 1;
    let mut addresses = Seen::new("two listeners on one switch would tell every call twice: take one out");
    let switches = raw.switches.into_iter().zip(switch_names);
    let switches = every(
        switches.map(|(raw, name)| switch(raw, name, only_switch, &zammad_names, &mut addresses, report)),
    );

    let routes = every(raw.routes.iter().map(|raw| route(raw, &zammad_names, report)));
    let end_blocked_with = match &raw.calls.end_blocked_with {
        Some(given) => cause_to_end_with(given, report).map(Some),
        None => Some(None),
    };
    let delivery = delivery(&raw.delivery, report);
    let causes = causes(&raw.causes, report);
    let mut extensions = Seen::new("write each extension once, or tell the two apart as 1001@DOMAIN");
    let agents = every(raw.agents.into_iter().map(|raw| agent(raw, &mut extensions, report)));
    let mut numbers = Seen::new("write each called number once");
    let queues = every(raw.queues.into_iter().map(|raw| queue(raw, &mut numbers, report)));
    let log_level = log_level(raw.log.level.as_ref(), report);
    let log_format = log_format(raw.log.format.as_ref(), report);
    let admin = admin::admin(&raw.admin, report);
    let outbox = outbox::outbox(raw.outbox, report);

    Some(Config {
        state_dir,
        country: country?,
        switches: switches?,
        zammads: zammads?,
        delivery: delivery?,
        routes: routes?,
        calls: Calls {
            report_internal: raw.calls.internal.is_some_and(|given| given.value),
            end_blocked_with: end_blocked_with?,
        },
        causes: causes?,
        agents: agents?,
        queues: queues?,
        log: Log { level: log_level?, format: log_format? },
        admin: admin?,
        outbox: outbox?,
    })
}

fn country(given: Option<&Given<String>>, report: &mut Report) -> Option<Country> {
    match given {
        Some(given) => parse(given, "country", report),
        None => {
            let what = format!("no country is given, so numbers are read as in {}", Country::DEFAULT);
            report.warn(&Origin::Nowhere, "country", what, "write country = \"DE\", or yours");
            Some(Country::DEFAULT)
        }
    }
}

impl From<UnknownCountry> for Unfit {
    fn from(UnknownCountry(text): UnknownCountry) -> Self {
        Self::new(
            format!("{text:?} is no country"),
            "write its two letters of ISO 3166, for example DE, AT, CH, FR, GB or US",
        )
    }
}

fn log_level(given: Option<&Given<String>>, report: &mut Report) -> Option<LogLevel> {
    match given {
        Some(given) => parse(given, "log.level", report),
        None => DEFAULT_LOG_LEVEL.parse().ok(),
    }
}

fn log_format(given: Option<&Given<String>>, report: &mut Report) -> Option<LogFormat> {
    let formats = [
        ("auto", LogFormat::Auto),
        ("journald", LogFormat::Journald),
        ("json", LogFormat::Json),
        ("plain", LogFormat::Plain),
    ];
    match given {
        Some(given) => one_of(given, "log.format", &formats, report),
        None => Some(LogFormat::Auto),
    }
}

fn zammad(
    raw: RawZammad,
    name: Option<ZammadName>,
    urls: &mut Seen<String>,
    report: &mut Report,
) -> Option<ZammadConfig> {
    let place = &raw.place;
    let url = secret(
        raw.url,
        place,
        ["url", "url_file"],
        "nothing says where Zammad's CTI is",
        "write url_file = \"/path\" in its [[zammad]], set FREESWITCH_ZAMMAD_ZAMMAD_URL_FILE, or load \
         the systemd credential zammad-url; Zammad shows the URL under Admin > System > Integrations > CTI (generic)",
        report,
    );
    let url = url.and_then(|given| match given.value.expose().parse::<CtiUrl>() {
        Ok(value) => Some(Given { value, origin: given.origin }),
        Err(unfit) => {
            report.unfit(&given.origin, place.key("url"), unfit.into());
            None
        }
    });
    if let Some(Given { value: url, origin }) = &url {
        urls.add(url.expose().to_owned(), place.key("url"), origin, report);
        if !url.is_https() && !url.is_loopback() {
            let what = format!("the token and every number go to {} unencrypted", url.host());
            report.warn(origin, place.key("url"), what, "use https://");
        }
    }
    let rest_token = match raw.rest_token.is_given() {
        true => {
            let keys = ["rest_token", "rest_token_file"];
            let given = secret(raw.rest_token, place, keys, "is empty", "write the token", report);
            given.map(|given| Some(given.value))
        }
        false => Some(None),
    };
    let encrypted = url.as_ref().is_none_or(|url| url.value.is_https());
    let tls = tls(raw.tls.as_ref(), raw.ca_file, place, encrypted, report);
    let timeout_s = bounded(raw.timeout_s.as_ref(), place.key("timeout_s"), 1..=300, 10, report);
    Some(ZammadConfig {
        name: name?,
        url: url?.value,
        rest_token: rest_token?,
        tls: tls?,
        timeout: Duration::from_secs(timeout_s?),
    })
}

fn tls(
    word: Option<&Given<String>>,
    ca_file: Option<Given<PathBuf>>,
    place: &Place,
    encrypted: bool,
    report: &mut Report,
) -> Option<Tls> {
    let key = place.key("tls");
    let words = [("verify", true), ("insecure-accept-any-certificate", false)];
    let verify = word.map_or(Some(true), |given| one_of(given, &key, &words, report));
    let ca = ca_file.and_then(|given| {
        let ca_key = place.key("ca_file");
        if verify == Some(false) && word.is_some_and(|word| matches!(word.origin, Origin::File { .. })) {
            let what = "certificates to check against are given, and tls says that none is checked";
            report.fault(
                &given.origin,
                &*ca_key,
                what,
                "take out the tls line to have them checked, or this one",
            );
        }
        ca(&given, &ca_key, report)
    });
    match (verify?, ca) {
        (true, Some(pem)) => Some(Tls::Ca(pem)),
        (true, None) => Some(Tls::System),
        (false, _) => {
            if let Some(word) = word.filter(|_| encrypted) {
                let what = "Zammad's certificate is not checked: \
                            whoever stands between gets the token and every number";
                report.warn(
                    &word.origin,
                    key,
                    what,
                    "give Zammad's own authority as ca_file, with tls = \"verify\"",
                );
            }
            Some(Tls::AcceptAnything)
        }
    }
}

/// The PEM text of the file.
pub(super) fn ca(given: &Given<PathBuf>, key: &str, report: &mut Report) -> Option<String> {
    let path = &given.value;
    let read = read_text(path, path.display(), FILE_BYTES_MAX).and_then(|read| {
        if read.text.contains("-----BEGIN CERTIFICATE-----") {
            return Ok(read.text);
        }
        let what = format!("{} holds no certificate in PEM form", path.display());
        Err(Unfit::new(
            what,
            "give a file with -----BEGIN CERTIFICATE-----; openssl x509 -inform der turns DER into it",
        ))
    });
    read.map_err(|unfit| report.unfit(&given.origin, key, unfit)).ok()
}

fn switch(
    raw: RawSwitch,
    name: Option<SwitchName>,
    is_only: bool,
    zammads: &[Option<ZammadName>],
    addresses: &mut Seen<String>,
    report: &mut Report,
) -> Option<SwitchConfig> {
    let place = &raw.place;
    let key = place.key("address");
    let address: Option<Address> = match &raw.address {
        Some(given) => parse(given, &key, report),
        None if is_only => DEFAULT_ADDRESS.parse().ok(),
        None => {
            let remedy =
                "write address = \"HOST:PORT\"; only a single switch is looked for at 127.0.0.1:8021";
            report.missing(&place.origin, &key, "nothing says where the switch is", remedy);
            None
        }
    };
    if let (Some(address), Some(given)) = (&address, &raw.address) {
        addresses.add(address.to_string(), key, &given.origin, report);
    }
    let password = password(raw.password, place, address.as_ref(), report);
    let user = optional(raw.user.as_ref(), &place.key("user"), report);
    let zammad = zammad_of(raw.zammad.as_ref(), &place.key("zammad"), zammads, report);

    let key = place.key("heartbeat_timeout_s");
    let timeout_s = bounded(raw.heartbeat_timeout_s.as_ref(), &*key, 5..=3600, 65, report);
    if let (Some(given), Some(..HEARTBEAT_TIMEOUT_S_SAFE)) = (&raw.heartbeat_timeout_s, timeout_s) {
        let what = "FreeSWITCH beats every 20 s: a single lost beat would end the connection";
        let remedy = "write 65, unless event-heartbeat-interval in switch.conf.xml is shorter";
        report.warn(&given.origin, key, what, remedy);
    }
    let rules = every(raw.rules.iter().map(|raw| rule(raw, report)));
    Some(SwitchConfig {
        name: name?,
        address: address?,
        password: password?,
        user: user?,
        zammad: zammad?,
        heartbeat_timeout: Duration::from_secs(timeout_s?),
        cdr_dir: raw.cdr_dir.map(|given| given.value),
        rules: rules?,
    })
}

fn password(
    raw: RawSecret,
    place: &Place,
    address: Option<&Address>,
    report: &mut Report,
) -> Option<Password> {
    // FreeSWITCH's published default is not assumed: whoever never changed it should have to write it down.
    let given = secret(
        raw,
        place,
        ["password", "password_file"],
        "nothing says the event socket's password",
        "write password_file = \"/path\" in its [[switch]], set \
         FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD_FILE, or load the systemd credential freeswitch-password; the password is in event_socket.conf.xml",
        report,
    )?;
    let key = place.key("password");
    if given.value.expose() == "ClueCon" && address.is_some_and(|address| !address.is_loopback()) {
        let what =
            "the switch is reached over the network with the password that FreeSWITCH is published with";
        report.warn(&given.origin, &*key, what, "change it in event_socket.conf.xml and here");
    }
    Password::try_from(given.value).map_err(|unfit| report.unfit(&given.origin, key, unfit)).ok()
}

fn zammad_of(
    given: Option<&Given<String>>,
    key: &str,
    zammads: &[Option<ZammadName>],
    report: &mut Report,
) -> Option<ZammadName> {
    let Some(given) = given else { return zammads.first()?.clone() };
    let found = zammads.iter().flatten().find(|name| name.as_str() == given.value);
    // While a Zammad's own name is in doubt, nobody can say that this is not the one.
    if found.is_none() && zammads.iter().all(Option::is_some) {
        let known: Vec<&str> = zammads.iter().flatten().map(ZammadName::as_str).collect();
        let remedy = format!("name one of [[zammad]]: {}", known.join(", "));
        report.fault(&given.origin, key, format!("there is no Zammad {:?}", given.value), remedy);
    }
    found.cloned()
}

fn rule(raw: &RawRule, report: &mut Report) -> Option<Rule> {
    let glob = |given: &Option<Given<String>>| given.as_ref().map(|given| Glob::new(&given.value));
    let patterns = [&raw.profile, &raw.context, &raw.gateway, &raw.channel, &raw.user, &raw.number];
    if raw.direction.is_none() && patterns.iter().all(|p| p.is_none()) {
        let what = "the rule has nothing to match and would judge every leg";
        let remedy = "give it a profile, context, gateway, channel, user, number or direction";
        report.missing(&raw.place.origin, &raw.place.key, what, remedy);
    }
    let ways = [("inbound", Way::Inbound), ("outbound", Way::Outbound)];
    let way = match &raw.direction {
        Some(given) => one_of(given, &raw.place.key("direction"), &ways, report).map(Some),
        None => Some(None),
    };
    let key = raw.place.key("side");
    let sides = [("outside", Side::Outside), ("ours", Side::Ours), ("plumbing", Side::Plumbing)];
    let side = match &raw.side {
        Some(given) => one_of(given, &key, &sides, report),
        None => {
            let remedy = "write side = \"outside\", \"ours\" or \"plumbing\"";
            report.missing(&raw.place.origin, &key, "the rule does not say what such a leg is", remedy);
            None
        }
    };
    Some(Rule {
        profile: glob(&raw.profile),
        context: glob(&raw.context),
        gateway: glob(&raw.gateway),
        channel: glob(&raw.channel),
        user: glob(&raw.user),
        number: glob(&raw.number),
        way: way?,
        side: side?,
    })
}

fn route(raw: &RawRoute, zammads: &[Option<ZammadName>], report: &mut Report) -> Option<Route> {
    let glob = |given: &Option<Given<String>>| given.as_ref().map(|given| Glob::new(&given.value));
    if [&raw.domain, &raw.context, &raw.gateway, &raw.number].iter().all(|p| p.is_none()) {
        let what = "the route has nothing to match and would take every call";
        let remedy =
            "give it a domain, context, gateway or number; for all calls of a switch, use its zammad key";
        report.missing(&raw.place.origin, &raw.place.key, what, remedy);
    }
    let key = raw.place.key("zammad");
    if raw.zammad.is_none() {
        let what = "the route does not say where such calls go";
        report.missing(&raw.place.origin, &key, what, "write zammad = \"NAME\", the name of a [[zammad]]");
        return None;
    }
    let zammad = zammad_of(raw.zammad.as_ref(), &key, zammads, report)?;
    Some(Route {
        domain: glob(&raw.domain),
        context: glob(&raw.context),
        gateway: glob(&raw.gateway),
        number: glob(&raw.number),
        zammad: zammad.to_string(),
    })
}

/// FreeSWITCH takes an unknown cause for NORMAL_CLEARING without a word.
fn cause_to_end_with(given: &Given<String>, report: &mut Report) -> Option<&'static str> {
    let known = find(&given.value).map(|row| row.name);
    if known.is_none() {
        let what = format!("{:?} is no hangup cause", given.value);
        let remedy = "write CALL_REJECTED, USER_BUSY, or another that `freeswitch-zammad cause` lists";
        report.fault(&given.origin, "calls.end_blocked_with", what, remedy);
    }
    known
}

fn delivery(raw: &RawDelivery, report: &mut Report) -> Option<Delivery> {
    let mut of = |given: &Option<Given<i64>>, key: &str, bounds, default| {
        bounded(given.as_ref(), format!("delivery.{key}"), bounds, default, report)
    };
    let concurrency = of(&raw.concurrency, "concurrency", 1..=256, 16);
    let wait_min = of(&raw.retry_wait_ms_min, "retry_wait_ms_min", 50..=60_000, 500);
    let wait_max = of(&raw.retry_wait_ms_max, "retry_wait_ms_max", 1_000..=3_600_000, 60_000);
    let delivered_keep_h = of(&raw.delivered_keep_h, "delivered_keep_h", 1..=8_760, 72);
    let dead_keep_d = of(&raw.dead_keep_d, "dead_keep_d", 1..=3_650, 30);
    let dead_keep_max = of(&raw.dead_keep_max, "dead_keep_max", 1..=1_000_000, 10_000);
    let late_after_s = of(&raw.late_after_s, "late_after_s", 1..=86_400, 60);
    let backlog_per_s = of(&raw.backlog_per_s, "backlog_per_s", 1..=10_000, 100);
    let max_age_d = of(&raw.max_age_d, "max_age_d", 1..=3_650, 30);
    let max_events = of(&raw.max_events, "max_events", 1_000..=100_000_000, 1_000_000);
    let fulls = [("drop-new", WhenFull::DropNew), ("drop-old", WhenFull::DropOld)];
    let when_full = match &raw.when_full {
        Some(given) => one_of(given, "delivery.when_full", &fulls, report),
        None => Some(WhenFull::DropNew),
    };
    let policies = [
        ("deliver", LatePolicy::Deliver),
        ("missed-only", LatePolicy::MissedOnly),
        ("drop", LatePolicy::Drop),
    ];
    let late_policy = match &raw.late_policy {
        Some(given) => one_of(given, "delivery.late_policy", &policies, report),
        None => Some(LatePolicy::Deliver),
    };
    if let (Some(min), Some(max)) = (wait_min, wait_max)
        && min > max
    {
        let given = raw.retry_wait_ms_max.as_ref().or(raw.retry_wait_ms_min.as_ref());
        let origin = given.map_or(Origin::Nowhere, |given| given.origin.clone());
        let what = format!("the longest wait, {max} ms, is shorter than the first, {min} ms");
        report.fault(&origin, "delivery.retry_wait_ms_max", what, "write at least retry_wait_ms_min");
    }
    let count = |n: u64| usize::try_from(n).ok().and_then(NonZeroUsize::new);
    Some(Delivery {
        concurrency: count(concurrency?)?,
        retry_wait_min: Duration::from_millis(wait_min?),
        retry_wait_max: Duration::from_millis(wait_max?),
        delivered_keep: Duration::from_hours(delivered_keep_h?),
        dead_keep: Duration::from_hours(24 * dead_keep_d?),
        dead_keep_max: count(dead_keep_max?)?,
        late_after: Duration::from_secs(late_after_s?),
        late_policy: late_policy?,
        backlog_per_s: u32::try_from(backlog_per_s?).ok().and_then(NonZeroU32::new)?,
        max_age: Duration::from_hours(24 * max_age_d?),
        max_events: max_events?,
        when_full: when_full?,
    })
}

fn causes(raw: &[(Given<String>, Given<String>)], report: &mut Report) -> Option<BTreeMap<CauseName, Cause>> {
    let words = Cause::ALL.map(|cause| (cause.as_str(), cause));
    let pairs = every(raw.iter().map(|(name, cause)| {
        let key = format!("causes.{}", name.value);
        let parsed: Option<CauseName> = parse(name, &key, report);
        if parsed.is_some() && find(&name.value).is_none() {
            warn_of_unknown_cause(name, &key, report);
        }
        let cause = one_of(cause, &key, &words, report);
        Some((parsed?, cause?))
    }));
    Some(pairs?.into_iter().collect())
}

/// No fault: modules have causes of their own, and so will the next FreeSWITCH.
fn warn_of_unknown_cause(name: &Given<String>, key: &str, report: &mut Report) {
    let known = ROWS.map(|row| row.name);
    let remedy = match nearest(&name.value, &known) {
        Some(near) => format!("did you mean {near}? Leave it if a module of yours says it"),
        None => "leave it if a module of yours says it, else take it out".to_owned(),
    };
    report.warn(&name.origin, key, "FreeSWITCH itself has no such hangup cause", remedy);
}

fn agent(raw: RawAgent, extensions: &mut Seen<Extension>, report: &mut Report) -> Option<Agent> {
    let key = raw.place.key("extension");
    let extension: Option<Extension> =
        required(raw.extension.as_ref(), &raw.place, &key, "write extension = \"1001\"", report);
    if let (Some(extension), Some(given)) = (&extension, &raw.extension) {
        extensions.add(extension.clone(), key, &given.origin, report);
    }
    if let Some(user) = &raw.user {
        let key = raw.place.key("user");
        short_enough(user, &key, report);
        if user.value == VOICEMAIL {
            let what = "Zammad takes every call answered by exactly this name for missed";
            report.fault(&user.origin, key, what, "write it with a capital, or another name");
        }
    }
    let number = optional(raw.number.as_ref(), &raw.place.key("number"), report);
    Some(Agent { extension: extension?, user: raw.user.map(|user| user.value), number: number? })
}

fn queue(raw: RawQueue, numbers: &mut Seen<Number>, report: &mut Report) -> Option<QueueName> {
    let key = raw.place.key("number");
    let number: Option<Number> =
        required(raw.number.as_ref(), &raw.place, &key, "write number = \"4930555100\"", report);
    if let (Some(number), Some(given)) = (&number, &raw.number) {
        numbers.add(number.clone(), key, &given.origin, report);
    }
    let key = raw.place.key("name");
    match &raw.name {
        Some(name) => short_enough(name, &key, report),
        None => report.missing(&raw.place.origin, &key, "is missing", "write name = \"Support\""),
    }
    Some(QueueName { number: number?, name: raw.name?.value })
}

/// The names of one kind of table: unique, and needed as soon as there is more than one.
fn names<'a, N>(
    tables: impl ExactSizeIterator<Item = (&'a Place, Option<&'a Given<String>>)>,
    report: &mut Report,
) -> Vec<Option<N>>
where
    N: FromStr<Err = Unfit> + Clone + Eq + Hash,
{
    let is_only = tables.len() == 1;
    let mut seen = Seen::new("give each its own name");
    let check = |(place, given): (&Place, Option<&Given<String>>)| {
        let key = place.key("name");
        let Some(given) = given else {
            if is_only {
                return DEFAULT_NAME.parse().ok();
            }
            let remedy = "give each its own name, for example name = \"main\"";
            report.missing(&place.origin, &key, "is missing, and there are several", remedy);
            return None;
        };
        let name: N = parse(given, &key, report)?;
        seen.add(name.clone(), key, &given.origin, report);
        Some(name)
    };
    tables.map(check).collect()
}
