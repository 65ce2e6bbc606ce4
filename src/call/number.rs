//! Telephone numbers as Zammad wants them: E.164 digits without `+`, whatever form the switch shows.
//!
//! What is no telephone number (an extension, a service code, a name) stays what it is. The country's prefixes
//! and lengths come from libphonenumber's tables (the `phonenumber` crate).

use std::fmt;
use std::str::FromStr;

use phonenumber::{Mode, country, metadata};

/// What a withheld number is called in Zammad.
pub const ANONYMOUS: &str = "anonymous";

/// From this many digits on, a number without any prefix is taken for a public one rather than an extension.
pub const EXTENSION_MAX: usize = 6;

/// FreeSWITCH's own word for "no caller id was set".
const NO_NUMBER: &str = "0000000000";

/// Words that providers put where a withheld number would stand.
const WITHHELD: [&str; 10] = [
    "anonymous",
    "restricted",
    "unknown",
    "unavailable",
    "private",
    "withheld",
    "blocked",
    "hidden",
    "asserted",
    "nobody",
];

/// The country whose way of writing numbers the switch uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Country(country::Id);

/// A text that is no ISO 3166 country.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no country; write its two ISO letters, for example DE")]
pub struct UnknownCountry(pub String);

impl FromStr for Country {
    type Err = UnknownCountry;

    fn from_str(text: &str) -> Result<Self, UnknownCountry> {
        let letters = text.trim().to_ascii_uppercase();
        letters.parse().map(Self).map_err(|_| UnknownCountry(text.to_owned()))
    }
}

impl fmt::Display for Country {
    /// Its two ISO letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref())
    }
}

impl Country {
    /// Germany: what Zammad itself assumes of a number with a leading 0.
    pub const DEFAULT: Self = Self(country::DE);

    /// `raw` as Zammad wants it. Empty and withheld ones become [`ANONYMOUS`].
    #[must_use]
    pub fn normalise(self, raw: &str) -> String {
        let user = user_part(raw);
        if user.is_empty() || user == NO_NUMBER || WITHHELD.iter().any(|w| user.eq_ignore_ascii_case(w)) {
            return ANONYMOUS.to_owned();
        }
        let Some(dialled) = dialled_digits(user) else { return user.to_owned() };
        self.international(&dialled).unwrap_or_else(|| dialled.trim_start_matches('+').to_owned())
    }

    /// The E.164 digits of a number that says by its prefix (or, where the country has none, by its length)
    /// that it is a public one.
    fn international(self, dialled: &str) -> Option<String> {
        let region = metadata::DATABASE.by_id(self.0.as_ref())?;
        let digits = dialled.trim_start_matches('+').len();
        let trunk_prefix = region.national_prefix().filter(|p| p.starts_with('0'));
        let prefixed = dialled.starts_with('+')
            || dialled.starts_with("00")
            || trunk_prefix.is_some_and(|p| dialled.starts_with(p));
        // "0", "00" and short codes behind a prefix are dialled, but are no numbers of anybody.
        if !dialled.bytes().all(|b| b == b'+' || b.is_ascii_digit()) || digits < EXTENSION_MAX {
            return None;
        }
        let number = phonenumber::parse(Some(self.0), dialled).ok()?;
        if prefixed || (trunk_prefix.is_none() && phonenumber::is_valid(&number)) {
            let e164 = number.format().mode(Mode::E164).to_string();
            return Some(e164.trim_start_matches('+').to_owned());
        }
        None
    }
}

/// Whether a number, as the switch shows it, can only be a public one: `+`, a leading 0, or too long for an extension.
#[must_use]
pub fn looks_public(raw: &str) -> bool {
    dialled_digits(user_part(raw))
        .is_some_and(|d| d.starts_with('+') || (d.starts_with('0') && d.len() > 1) || d.len() > EXTENSION_MAX)
}

/// Whether a number has the form of an extension: a few digits, no leading 0 or `+`.
#[must_use]
pub fn looks_like_extension(raw: &str) -> bool {
    let user = user_part(raw);
    (1..=EXTENSION_MAX).contains(&user.len())
        && user.bytes().all(|b| b.is_ascii_digit())
        && !user.starts_with('0')
}

/// Whether two public numbers lead to the same subscriber, written for different trunks.
#[must_use]
pub fn same_subscriber(a: &str, b: &str) -> bool {
    const SUBSCRIBER: usize = 7;
    let tail = |number: &str| {
        let digits: Vec<u8> = user_part(number).bytes().filter(u8::is_ascii_digit).collect();
        digits.len().checked_sub(SUBSCRIBER).map(|start| digits[start..].to_vec())
    };
    a == b || tail(a).is_some_and(|end| tail(b) == Some(end))
}

/// The user part of what may be a SIP or tel URI: `sip:+49%2030@host;user=phone` → `+49 30`, also where a name
/// stands before it.
#[must_use]
pub fn user_part(raw: &str) -> &str {
    let raw = raw.rsplit_once('<').map_or(raw, |(_, uri)| uri).trim().trim_end_matches('>');
    let bare = ["sip:", "sips:", "tel:"]
        .iter()
        .find_map(|scheme| {
            let (head, tail) = raw.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(tail)
        })
        .unwrap_or(raw);
    // `1001%domain` is mod_sofia's way of dialling a registered user.
    let end = bare.find(['@', ';', '%']).unwrap_or(bare.len());
    bare[..end].trim()
}

/// A dialled number without its decoration: digits, `+` in front, `*` and `#` kept; `None` if it is a name.
fn dialled_digits(user: &str) -> Option<String> {
    // "+49 (0)30 555": the bracketed trunk prefix is not dialled from abroad.
    let user = if user.starts_with('+') { user.replacen("(0)", "", 1) } else { user.to_owned() };
    let mut dialled = String::with_capacity(user.len());
    for c in user.chars() {
        match c {
            '0'..='9' | '*' | '#' => dialled.push(c),
            '+' if dialled.is_empty() => dialled.push(c),
            ' ' | '\u{a0}' | '-' | '.' | '/' | '(' | ')' => {}
            _ => return None,
        }
    }
    dialled.bytes().any(|b| b.is_ascii_digit()).then_some(dialled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_leave_as_e164_digits() {
        for (country, raw, want) in [
            ("DE", "+4915112345678", "4915112345678"),
            ("DE", "015112345678", "4915112345678"),
            ("DE", "004915112345678", "4915112345678"),
            ("DE", "0049 (151) 1234-5678", "4915112345678"),
            ("DE", "4915112345678", "4915112345678"),
            ("DE", "+49 (0)30 555", "4930555"),
            ("DE", "+4916099", "4916099"),
            ("DE", "sip:+4915112345678@provider.example.test;user=phone", "4915112345678"),
            ("DE", "+4915112345678;phone-context=+49", "4915112345678"),
            ("DE", "+12125551234", "12125551234"),
            ("DE", "0012125551234", "12125551234"),
            ("US", "2125551234", "12125551234"),
            ("US", "12125551234", "12125551234"),
            ("US", "0114930555123", "4930555123"),
            ("IT", "0612345678", "390612345678"),
            ("CH", "0446681800", "41446681800"),
            ("FR", "0123456789", "33123456789"),
            ("ES", "912345678", "34912345678"),
            ("GB", "02079460000", "442079460000"),
        ] {
            let country: Country = country.parse().unwrap();
            assert_eq!(country.normalise(raw), want, "{country:?} {raw}");
        }
    }

    #[test]
    fn what_is_no_public_number_stays_what_it_is() {
        let de: Country = "DE".parse().unwrap();
        for same in
            ["1001", "0", "00", "110", "112", "*98", "#31#", "**1001", "alice", "115", "90210", "116117"]
        {
            assert_eq!(de.normalise(same), same);
        }
        assert_eq!(de.normalise("1001%acme.example.test"), "1001");
    }

    #[test]
    fn withheld_numbers_are_anonymous() {
        let de: Country = "DE".parse().unwrap();
        for withheld in
            ["", " ", "anonymous", "Anonymous", "RESTRICTED", "unknown", "sip:anonymous@anonymous.invalid"]
        {
            assert_eq!(de.normalise(withheld), ANONYMOUS);
        }
    }

    #[test]
    fn uris_and_oddities() {
        let de: Country = "DE".parse().unwrap();
        for (raw, want) in [
            ("\"Jürgen <JM> Müller\" <sip:+4915112345678@provider.example.test>", "4915112345678"),
            ("<tel:+49-151-12345678;phone-context=+49>", "4915112345678"),
            ("SIP:alice@example.org", "alice"),
            ("sip:1001@[2001:db8::1]:5060", "1001"),
            // More than E.164's 15 digits: nobody's number, but what was dialled.
            ("+491511234567890123456", "491511234567890123456"),
            ("00491511234567890123456", "00491511234567890123456"),
            // FreeSWITCH's own stand-in for a caller id that was not set.
            ("0000000000", ANONYMOUS),
            ("+", "+"),
            ("\u{fffd}\u{fffd}", "\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(de.normalise(raw), want, "{raw}");
        }
        // Without a trunk prefix a number tells by its length; service codes stay.
        let us: Country = "US".parse().unwrap();
        for same in ["911", "411", "*69", "1001", "5551234"] {
            assert_eq!(us.normalise(same), same);
        }
    }

    #[test]
    fn the_last_digits_make_a_subscriber() {
        for (a, b, same) in [
            ("+4917099988877", "017099988877", true),
            ("4917099988877", "9017099988877", true),
            ("1001", "1001", true),
            ("1001", "2001", false),
            ("4917099988877", "4917099988878", false),
            ("grüße", "größe", false),
        ] {
            assert_eq!(same_subscriber(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn extensions_and_public_numbers_are_told_apart() {
        for public in ["+49305552101", "017099988877", "4915112345678", "00491511234", "030 555"] {
            assert!(looks_public(public) && !looks_like_extension(public), "{public}");
        }
        for extension in ["1001", "55", "200300", "1001@127.0.0.1:6001", "1001%acme.example.test"] {
            assert!(!looks_public(extension) && looks_like_extension(extension), "{extension}");
        }
        for neither in ["alice", "voicemail", "", "0"] {
            assert!(!looks_public(neither) && !looks_like_extension(neither), "{neither}");
        }
    }

    #[test]
    fn a_country_is_two_letters() {
        assert_eq!("de".parse(), Ok(Country::DEFAULT));
        assert_eq!("US".parse::<Country>().unwrap().to_string(), "US");
        for text in ["", "Germany", "49", "D", "XX", "DEU"] {
            assert_eq!(text.parse::<Country>(), Err(UnknownCountry(text.into())));
        }
    }
}
