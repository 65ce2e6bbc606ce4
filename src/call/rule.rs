//! An operator's word on whose a leg is: it goes before every mark that the switch sets.
//!
//! Knows nothing of where rules are written.

use std::fmt;

use wildmatch::WildMatch;

use super::leg::{Created, Side, Way};

/// Judges the legs that it matches; of several rules the first that matches decides. What is `None` is not asked,
/// so a rule without any pattern matches every leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// SIP profile.
    pub profile: Option<Glob>,
    /// Dialplan context at creation.
    pub context: Option<Glob>,
    /// Gateway name; empty where there is none.
    pub gateway: Option<Glob>,
    /// Channel-Name, `sofia/internal/1001@pbx.example.com`.
    pub channel: Option<Glob>,
    /// The directory user that it logged in as, or is dialled as: `1001`, or `1001@pbx.example.com`. Empty where
    /// there is none.
    pub user: Option<Glob>,
    /// The far number as the switch writes it: the caller's of an inbound leg, the dialled one of an outbound leg.
    pub number: Option<Glob>,
    /// Only legs of this way.
    pub way: Option<Way>,
    /// Whose such a leg is.
    pub side: Side,
}

impl Rule {
    /// Whether all that the rule asks for holds of this leg.
    #[must_use]
    pub fn matches(&self, leg: &Created) -> bool {
        let fits = |glob: &Option<Glob>, text: &str| glob.as_ref().is_none_or(|glob| glob.matches(text));
        let far = match leg.way {
            Way::Inbound => leg.caller.as_deref().unwrap_or_default(),
            Way::Outbound => &leg.dialled,
        };
        self.way.is_none_or(|way| way == leg.way)
            && fits(&self.profile, &leg.profile)
            && fits(&self.context, &leg.context)
            && fits(&self.gateway, leg.gateway.as_deref().unwrap_or_default())
            && fits(&self.channel, &leg.channel)
            && self.user.as_ref().is_none_or(|glob| {
                let (user, domain) = (leg.user().unwrap_or_default(), leg.domain());
                glob.matches(user) || domain.is_some_and(|domain| glob.matches(&format!("{user}@{domain}")))
            })
            && fits(&self.number, far)
    }
}

/// A pattern over a whole text: `*` stands for any characters or none, `?` for exactly one, of any script.
/// Everything else stands for itself, `+`, `[` and `\` too, and case counts.
///
/// Nothing escapes: a star cannot be asked for by itself, and `*98` is whatever ends in 98. `?98` is the nearest
/// to the service code.
#[derive(Clone, PartialEq)]
pub struct Glob(WildMatch);

// The pattern is letters and a flag; wildmatch only leaves the marker out.
impl Eq for Glob {}

impl Glob {
    /// Compiles `pattern`: every text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(WildMatch::new(pattern))
    }

    /// Whether the pattern covers all of `text`. Takes at most pattern × text steps.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}

impl fmt::Display for Glob {
    /// The pattern; stars that stood side by side are one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.pattern())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esl::event::Event;

    #[test]
    fn globs_cover_the_whole_text() {
        for (pattern, text, expected) in [
            ("external*", "external", true),
            ("external*", "external-ipv6", true),
            ("external*", "my-external", false),
            ("sofia/internal/+*", "sofia/internal/+4930@h", true),
            ("sofia/internal/+*", "sofia/internal/4930@h", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*ab*ab", "abxabab", true),
            ("a*b*c", "a-b-b-d", false),
            ("External", "external", false),
            // One character, not one byte, and not none.
            ("a?c", "abc", true),
            ("a?c", "aüc", true),
            ("a?c", "ac", false),
            ("10??", "1001", true),
            ("10??", "10011", false),
            ("?*", "", false),
            ("ü*", "übung", true),
            // Nothing escapes, and a bracket is a bracket.
            (r"\*", "*", false),
            (r"\*", r"\98", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
            ("*98", "1198", true),
            ("?98", "*98", true),
            ("?98", "1198", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_glob_shows_its_pattern() {
        let glob = Glob::new("sofia/*/+49?*");
        assert_eq!(glob.to_string(), "sofia/*/+49?*");
        assert_eq!(format!("{glob:?}"), "\"sofia/*/+49?*\"");
        assert_eq!(glob, Glob::new("sofia/**/+49?*"));
        assert_ne!(glob, Glob::new("sofia/*/+49*"));
    }

    #[test]
    fn all_that_a_rule_asks_for_must_hold() {
        let caller = leg(&[
            ("Call-Direction", "inbound"),
            ("Channel-Name", "sofia/external/+4915112345678@h"),
            ("Caller-Context", "public"),
            ("Caller-Caller-ID-Number", "+4915112345678"),
            ("Caller-Destination-Number", "100"),
        ]);
        let dialled = leg(&[
            ("Call-Direction", "outbound"),
            ("Channel-Name", "sofia/external/100@h"),
            ("Caller-Caller-ID-Number", "+4915112345678"),
            ("Caller-Destination-Number", "100"),
            ("variable_sip_gateway_name", "provider-1"),
            ("variable_dialed_user", "1001"),
            ("variable_dialed_domain", "pbx.example.test"),
        ]);
        let glob = |pattern| Some(Glob::new(pattern));
        for (rule, matches) in [
            (ANY, [true, true]),
            (Rule { way: Some(Way::Inbound), ..ANY }, [true, false]),
            (Rule { profile: glob("ext*"), ..ANY }, [true, true]),
            (Rule { profile: glob("ext*"), context: glob("public"), ..ANY }, [true, false]),
            (Rule { profile: glob("internal"), context: glob("public"), ..ANY }, [false, false]),
            (Rule { channel: glob("*/+*"), ..ANY }, [true, false]),
            (Rule { gateway: glob("provider-?"), ..ANY }, [false, true]),
            (Rule { user: glob("1001"), ..ANY }, [false, true]),
            (Rule { user: glob("*@pbx.example.test"), ..ANY }, [false, true]),
            (Rule { user: glob("trunk*"), ..ANY }, [false, false]),
            (Rule { user: glob(""), ..ANY }, [true, false]),
            // The far end: who calls in, who is called out.
            (Rule { number: glob("+49*"), ..ANY }, [true, false]),
            (Rule { number: glob("1??"), ..ANY }, [false, true]),
        ] {
            assert_eq!([rule.matches(&caller), rule.matches(&dialled)], matches, "{rule:?}");
        }
    }

    const ANY: Rule = Rule {
        profile: None,
        context: None,
        gateway: None,
        channel: None,
        user: None,
        number: None,
        way: None,
        side: Side::Ours,
    };

    fn leg(headers: &[(&str, &str)]) -> Created {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {}\n", value.replace('+', "%2B")));
        let text: String =
            ["Event-Name: CHANNEL_CREATE\nUnique-ID: 1\n".to_owned()].into_iter().chain(lines).collect();
        Created::read(&Event::parse(&text.into()).unwrap()).unwrap()
    }
}
