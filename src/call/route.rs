//! To which Zammad a call is told, where there are several: by domain, context, gateway or our number.
//!
//! Decided once, when the call begins, from what is known then: an inbound call has no domain yet unless its
//! trunk or context has one, so tenants are told apart by the number that was called; an outbound one has the
//! domain of the phone that dials.

use super::leg::Created;
use super::rule::Glob;

/// Names a Zammad for the calls that it matches; of several the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The domain of the phone that calls; an inbound call has none yet.
    pub domain: Option<Glob>,
    /// The outside leg's dialplan context.
    pub context: Option<Glob>,
    /// The outside leg's gateway.
    pub gateway: Option<Glob>,
    /// Our number, as it is sent: the called one of an inbound call, the calling one of an outbound call.
    pub number: Option<Glob>,
    /// The Zammad's configured name.
    pub zammad: String,
}

/// What is known of a call when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// See [`Route::domain`]; empty if unknown.
    pub domain: &'a str,
    /// See [`Route::context`].
    pub context: &'a str,
    /// See [`Route::gateway`]; empty where there is none.
    pub gateway: &'a str,
    /// See [`Route::number`].
    pub number: &'a str,
}

impl Route {
    /// Whether all that the route asks for holds of this call.
    #[must_use]
    pub fn matches(&self, call: Facts<'_>) -> bool {
        let fits = |glob: &Option<Glob>, text: &str| glob.as_ref().is_none_or(|glob| glob.matches(text));
        fits(&self.domain, call.domain)
            && fits(&self.context, call.context)
            && fits(&self.gateway, call.gateway)
            && fits(&self.number, call.number)
    }
}

impl<'a> Facts<'a> {
    /// What is known of a call that begins with this leg.
    #[must_use]
    pub fn of(leg: &'a Created, domain: Option<&'a str>, number: &'a str) -> Self {
        let gateway = leg.gateway.as_deref().unwrap_or_default();
        Self { domain: domain.unwrap_or_default(), context: &leg.context, gateway, number }
    }
}

/// The Zammad that the first matching route names.
#[must_use]
pub fn choose<'r>(routes: &'r [Route], call: Facts<'_>) -> Option<&'r str> {
    routes.iter().find(|route| route.matches(call)).map(|route| route.zammad.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_that_matches_whole_decides() {
        let route = |domain: Option<&str>, number: Option<&str>, zammad: &str| Route {
            domain: domain.map(Glob::new),
            context: None,
            gateway: None,
            number: number.map(Glob::new),
            zammad: zammad.into(),
        };
        let routes = [
            route(Some("acme.*"), None, "acme"),
            route(None, Some("4930666*"), "globex"),
            route(Some("globex.*"), None, "globex"),
        ];
        let call = |domain, number| Facts { domain, number, ..Facts::default() };
        assert_eq!(choose(&routes, call("acme.example.test", "4930666601001")), Some("acme"));
        assert_eq!(choose(&routes, call("", "4930666601001")), Some("globex"));
        assert_eq!(choose(&routes, call("globex.example.test", "1001")), Some("globex"));
        assert_eq!(choose(&routes, call("", "4930555")), None);
    }
}
