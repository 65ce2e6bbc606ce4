//! What a leg's HANGUP_COMPLETE testifies of its call's end. Judges nothing: that is the cause table's.

use crate::call::cause::Ending;
use crate::esl::event::Event;

/// What a leg's HANGUP_COMPLETE testifies.
#[derive(Default)]
pub(super) struct Witness {
    pub(super) cause: String,
    pub(super) disposition: Option<String>,
    pub(super) hung_up_first: bool,
    pub(super) moved_away: bool,
}

impl Witness {
    pub(super) fn read(event: &Event) -> Self {
        let cause = event.get("Hangup-Cause").unwrap_or_default().into_owned();
        let hung_up_first = match event.get("variable_sip_hangup_disposition").as_deref() {
            Some("recv_bye" | "recv_cancel") => true,
            Some(_) => false,
            // Endpoints other than SIP say it by the cause alone.
            None => cause == "ORIGINATOR_CANCEL",
        };
        let application = event.get("variable_current_application").unwrap_or_default();
        let sent_away = matches!(&*application, "redirect" | "deflect") && !hung_up_first;
        let transferred = ["variable_endpoint_disposition", "Hangup-Cause"].iter().any(|header| {
            matches!(event.get(header).as_deref(), Some("BLIND_TRANSFER" | "ATTENDED_TRANSFER"))
        });
        Self {
            disposition: event.some("variable_originate_disposition").map(|v| v.to_uppercase()),
            hung_up_first,
            moved_away: sent_away || transferred || cause == "REDIRECTION_TO_NEW_DESTINATION",
            cause,
        }
    }

    /// Another leg that was tried at the same time was taken.
    pub(super) fn lost_race(&self) -> bool {
        self.cause == "LOSE_RACE"
    }

    pub(super) fn ending(&self) -> Ending {
        Ending {
            moved_away: self.moved_away,
            caller_gave_up: self.hung_up_first,
            own: self.cause.clone(),
            disposition: self.disposition.clone(),
            ..Ending::default()
        }
    }
}
