//! The small checked values a configuration is made of: each can only be made from a text that fits.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::fault::Unfit;

/// Where an event socket listens: a host name, an IPv4 or IPv6 address, and a port that is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: Box<str>,
    port: u16,
}

impl Address {
    /// The host; an IPv6 address without brackets, as `TcpStream::connect((host, port))` takes it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True if the switch is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().map_or(&*self.host == "localhost", |ip| ip.is_loopback())
    }
}

impl FromStr for Address {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        const EXAMPLE: &str = "write HOST:PORT, for example 127.0.0.1:8021";
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            let remedy = format!("write the address in brackets and a port, for example [{text}]:8021");
            return Err(Unfit::new(format!("{text:?} has no port"), remedy));
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, after)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (host, after.strip_prefix(':').unwrap_or_default())
            }
            Some(_) => {
                return Err(Unfit::new(format!("{text:?} has no IPv6 address in its brackets"), EXAMPLE));
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // From here on the text is not repeated where it could hold a password: PASSWORD@HOST,
        // HOST:PORT:PASSWORD.
        if host.is_empty() || !(host.contains(':') || host.bytes().all(fits)) {
            return Err(Unfit::new("no host name or IP address stands in front of the port", EXAMPLE));
        }
        if port.is_empty() {
            return Err(Unfit::new(format!("{text:?} has no port"), EXAMPLE));
        }
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Unfit::new(format!("what follows {host}: is no port"), EXAMPLE));
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self { host: host.into(), port }),
            Ok(_) | Err(_) => Err(Unfit::new(format!("{port} is no port between 1 and 65535"), EXAMPLE)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A text that keeps its shape from the check on.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Unfit;

            fn from_str(text: &str) -> Result<Self, Unfit> {
                let check: fn(&str) -> Result<String, Unfit> = $check;
                check(text).map(|text| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// What a switch is called in the configuration, the log and the metrics: 1 to 32 of `A-Za-z0-9._-`.
    SwitchName, name
}
checked_text! {
    /// What a Zammad is called in the configuration, the log and the metrics: 1 to 32 of `A-Za-z0-9._-`.
    ZammadName, name
}
checked_text! {
    /// A user of FreeSWITCH's directory, `user@domain`, as `userauth` takes it: one `@`, no colon, no space.
    EslUser, esl_user
}
checked_text! {
    /// The name of a FreeSWITCH hangup cause by its look: capital letters and `_`. Whether there is such a
    /// cause is for the cause table to say.
    CauseName, cause_name
}
checked_text! {
    /// A number as Zammad gets it: 1 to 20 digits, with the country code and without `+`. Spaces and
    /// `-/().` are dropped on reading.
    Number, number
}
checked_text! {
    /// Which log lines are written, as `tracing_subscriber`'s `EnvFilter` reads it: a level, or several
    /// directives with commas, `info,freeswitch_zammad::esl=debug`. Spaces beside the commas are dropped on
    /// reading.
    LogLevel, log_level
}

/// Whether it is 1 to `most` letters, digits, dots, dashes and underscores.
pub(super) fn is_name(text: &str, most: usize) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=most).contains(&text.len()) && text.bytes().all(fits)
}

fn name(text: &str) -> Result<String, Unfit> {
    if is_name(text, 32) {
        return Ok(text.to_owned());
    }
    Err(Unfit::new(
        format!("{text:?} is no name"),
        "use 1 to 32 letters, digits, dots, dashes or underscores, for example main",
    ))
}

fn esl_user(text: &str) -> Result<String, Unfit> {
    let (user, domain) = text.split_once('@').unwrap_or((text, ""));
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '@' | ':');
    if !user.is_empty() && !domain.is_empty() && user.chars().chain(domain.chars()).all(fits) {
        return Ok(text.to_owned());
    }
    // A colon is how userauth itself goes on, with the password: that is not repeated.
    let what = match text.contains(':') {
        true => "holds a colon; the password has a key of its own".to_owned(),
        false => format!("{text:?} is no user of the directory"),
    };
    Err(Unfit::new(
        what,
        "write USER@DOMAIN, for example 1001@pbx.example.com, or leave it out to log in with the password of \
         event_socket.conf.xml",
    ))
}

fn cause_name(text: &str) -> Result<String, Unfit> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return Ok(text.to_owned());
    }
    Err(Unfit::new(
        format!("{text:?} does not look like a FreeSWITCH hangup cause"),
        "write its name in capitals, for example USER_BUSY",
    ))
}

fn number(text: &str) -> Result<String, Unfit> {
    let international = text.trim().strip_prefix('+').unwrap_or(text);
    let digits: String =
        international.chars().filter(|c| !matches!(c, ' ' | '-' | '/' | '(' | ')' | '.')).collect();
    let remedy = "write it with the country code and without +, for example 4930555100";
    if !(1..=20).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Unfit::new(format!("{text:?} is no number"), remedy));
    }
    if digits.starts_with('0') {
        return Err(Unfit::new(
            format!("{text:?} begins with 0, and numbers reach Zammad without one"),
            remedy,
        ));
    }
    Ok(digits)
}

fn log_level(text: &str) -> Result<String, Unfit> {
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    // EnvFilter takes a word that is no level for the name of a module, of which it then shows everything.
    let is_level = |d: &str| !d.is_empty() && d.parse::<LevelFilter>().is_ok();
    if let Some(slip) = directives.iter().find(|d| !d.contains(['=', '[']) && !is_level(d)) {
        return Err(Unfit::new(
            format!("{slip:?} is no log level"),
            "write error, warn, info, debug or trace, or MODULE=LEVEL for one module",
        ));
    }
    let joined = directives.join(",");
    match EnvFilter::builder().parse(&joined) {
        Ok(_) => Ok(joined),
        Err(why) => Err(Unfit::new(
            format!("{text:?} cannot be read ({why})"),
            "write a level, or MODULE=LEVEL with commas between, for example info,freeswitch_zammad::esl=debug",
        )),
    }
}

/// One of our own extensions: everywhere, or only in one domain of a switch with several tenants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extension {
    /// The user part: what is dialled, or the name of a directory user.
    pub user: Box<str>,
    /// Only in this domain; in every one if `None`.
    pub domain: Option<Box<str>>,
}

impl FromStr for Extension {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let (user, domain) = match text.split_once('@') {
            Some((user, domain)) => (user, Some(domain)),
            None => (text, None),
        };
        let fits = |part: &str| {
            !part.is_empty() && !part.contains(|c: char| c == '@' || c.is_control() || c.is_whitespace())
        };
        if !fits(user) || domain.is_some_and(|d| !fits(d)) {
            return Err(Unfit::new(
                format!("{text:?} is no extension"),
                "write it as 1001, or as 1001@pbx.example.com for one domain only",
            ));
        }
        Ok(Self { user: user.into(), domain: domain.map(Into::into) })
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.domain {
            Some(domain) => write!(f, "{}@{domain}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_host_and_port() {
        for (text, host, port) in [
            ("127.0.0.1:8021", "127.0.0.1", 8021),
            ("pbx-1.example.test:1", "pbx-1.example.test", 1),
            ("[::1]:8021", "::1", 8021),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for (text, what) in [
            ("localhost", "has no port"),
            ("localhost:", "has no port"),
            ("::1", "has no port"),
            ("[::1]", "has no port"),
            ("[::1]8021", "has no port"),
            ("[host]:8021", "in its brackets"),
            (":8021", "no host name"),
            ("tcp://pbx:8021", "is no port"),
            ("pbx host:8021", "no host name"),
            ("pbx:0", "is no port"),
            ("pbx:65536", "is no port"),
            ("pbx:8021:s3cret", "is no port"),
            ("s3cret@pbx:8021", "no host name"),
        ] {
            let unfit = text.parse::<Address>().unwrap_err();
            assert!(unfit.what.contains(what), "{text}: {unfit}");
            assert!(!unfit.to_string().contains("s3cret"), "{text}: {unfit}");
        }
        assert!("[::1]:1".parse::<Address>().unwrap().is_loopback());
        assert!("localhost:1".parse::<Address>().unwrap().is_loopback());
        assert!(!"10.0.0.1:1".parse::<Address>().unwrap().is_loopback());
    }

    #[test]
    fn numbers_lose_their_dress_and_keep_their_country() {
        for (text, digits) in
            [("4930555100", "4930555100"), ("+49 (30) 555-100", "4930555100"), ("100", "100")]
        {
            assert_eq!(text.parse::<Number>().unwrap().as_str(), digits);
        }
        for text in ["", "030555100", "0049 30", "+", "12a", "123456789012345678901", "++49"] {
            assert!(text.parse::<Number>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_level_is_what_env_filter_reads_and_no_misspelt_word() {
        for (text, kept) in [
            ("info", "info"),
            ("OFF", "OFF"),
            (" warn, freeswitch_zammad::esl=debug ", "warn,freeswitch_zammad::esl=debug"),
            ("info,[call{id=7}]=trace", "info,[call{id=7}]=trace"),
        ] {
            assert_eq!(text.parse::<LogLevel>().unwrap().as_str(), kept);
        }
        for (text, what) in [
            ("", "\"\" is no log level"),
            ("inof", "\"inof\" is no log level"),
            ("info,", "\"\" is no log level"),
            ("info,verbose", "\"verbose\" is no log level"),
            ("info;debug", "\"info;debug\" is no log level"),
            ("freeswitch_zammad", "\"freeswitch_zammad\" is no log level"),
            ("freeswitch_zammad=loud", "cannot be read"),
            ("freeswitch_zammad = debug", "cannot be read"),
            ("info,[call", "cannot be read"),
        ] {
            let unfit = text.parse::<LogLevel>().unwrap_err();
            assert!(unfit.what.contains(what), "{text}: {unfit}");
        }
    }

    #[test]
    fn users_names_causes_and_extensions_are_checked() {
        assert!("1001@pbx.test".parse::<EslUser>().is_ok());
        for text in ["1001", "@d", "u@", "u@d@e", "u@d:p", "u @d", "u@d\n"] {
            assert!(text.parse::<EslUser>().is_err(), "{text}");
        }
        for text in ["", "a b", "ä", "123456789012345678901234567890123"] {
            assert!(text.parse::<ZammadName>().is_err() && text.parse::<SwitchName>().is_err(), "{text}");
        }
        for text in ["", "user_busy", "USER BUSY", "17"] {
            assert!(text.parse::<CauseName>().is_err(), "{text}");
        }
        assert_eq!("1001@a".parse::<Extension>().unwrap().to_string(), "1001@a");
        assert_eq!("anton".parse::<Extension>().unwrap().domain, None);
        for text in ["", "@a", "1001@", "1@a@b", "10 01"] {
            assert!(text.parse::<Extension>().is_err(), "{text}");
        }
    }
}
