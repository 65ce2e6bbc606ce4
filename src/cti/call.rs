//! What can be told of a call, as types: what Zammad would misread does not compile, or is refused before it is sent.
//!
//! | wrong | kept out by |
//! |---|---|
//! | several users on an answer (Zammad saves it and answers 500 each time) | [`Answer::user`] takes one |
//! | a user, or an answering number, on an outbound answer (it would replace the customer's name) | [`Answer`]`<`[`Outbound`]`>` has neither |
//! | a call that changes its direction or its numbers | [`Call`] holds them for all of its events |
//! | an empty number, a text that Zammad would cut and never find again | [`Invalid`], when the event is made |
//! | a number with `+`, which no entry of the block list equals | the `+` is taken off |
//!
//! ```
//! use freeswitch_zammad::cti::{Answer, Call, Cause, NewCall, Numbers};
//!
//! let numbers = Numbers { from: "+4915112345678", to: "4930555" };
//! let call = Call::inbound("pbx-17".parse()?, numbers)?;
//! let event = call.new_call(NewCall::default().users(["Alice", "Bob"]).queue("Support"))?;
//! assert_eq!(
//!     event.body(),
//!     r#"{"event":"newCall","callId":"pbx-17","direction":"in","from":"4915112345678","to":"4930555","user":"Alice, Bob","queue":"Support"}"#
//! );
//! call.answer(Answer::default().answering_number("1001").user("Bob"))?;
//! call.hangup(Cause::NormalClearing)?;
//! # Ok::<(), freeswitch_zammad::cti::Invalid>(())
//! ```
//!
//! An answer has one user, not a list:
//!
//! ```compile_fail
//! # use freeswitch_zammad::cti::{Answer, Call, Numbers};
//! let call = Call::inbound("pbx-17".parse()?, Numbers { from: "4915112345678", to: "4930555" })?;
//! call.answer(Answer::default().user(["Alice", "Bob"]))?; // with "Alice" alone it compiles
//! # Ok::<(), freeswitch_zammad::cti::Invalid>(())
//! ```
//!
//! and on an outbound call none at all:
//!
//! ```compile_fail
//! # use freeswitch_zammad::cti::{Answer, Call, Numbers};
//! let call = Call::outbound("pbx-18".parse()?, Numbers { from: "1001", to: "4915112345678" })?;
//! call.answer(Answer::default().user("Alice"))?; // without the user it compiles
//! # Ok::<(), freeswitch_zammad::cti::Invalid>(())
//! ```

use std::marker::PhantomData;
use std::str::FromStr;

use super::cause::Cause;
use super::event::{CALL_ID_MAX, CallId, Direction, Event, TEXT_MAX, VOICEMAIL, What};

/// A customer calls us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {}

/// We call a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {}

/// [`Inbound`] or [`Outbound`].
pub trait Way: sealed::Sealed {
    /// The same as a value.
    const DIRECTION: Direction;
}

impl Way for Inbound {
    const DIRECTION: Direction = Direction::In;
}

impl Way for Outbound {
    const DIRECTION: Direction = Direction::Out;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Inbound {}
    impl Sealed for super::Outbound {}
}

/// Who called whom: E.164 digits, an extension, or `anonymous`, at most [`TEXT_MAX`] characters each. Of `+49…` the `+`
/// is taken off: Zammad compares its block list and its routing with the digits alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers<'a> {
    /// Who calls.
    pub from: &'a str,
    /// Who is called.
    pub to: &'a str,
}

/// A call, named by its [`CallId`]. Makes its events; each carries direction and both numbers, as Zammad asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<W> {
    call_id: CallId,
    from: String,
    to: String,
    way: PhantomData<W>,
}

impl Call<Inbound> {
    /// A customer calls us.
    ///
    /// # Errors
    /// A number is empty or too long.
    pub fn inbound(call_id: CallId, numbers: Numbers<'_>) -> Result<Self, Invalid> {
        Self::new(call_id, numbers)
    }
}

impl Call<Outbound> {
    /// We call a customer.
    ///
    /// # Errors
    /// A number is empty or too long.
    pub fn outbound(call_id: CallId, numbers: Numbers<'_>) -> Result<Self, Invalid> {
        Self::new(call_id, numbers)
    }
}

impl<W: Way> Call<W> {
    fn new(call_id: CallId, Numbers { from, to }: Numbers<'_>) -> Result<Self, Invalid> {
        filled("callId", call_id.as_str())?;
        let (from, to) = (without_plus(from), without_plus(to));
        for (field, number) in [("from", from), ("to", to)] {
            filled(field, number)?;
            fits(field, number, TEXT_MAX)?;
        }
        Ok(Self { call_id, from: from.to_owned(), to: to.to_owned(), way: PhantomData })
    }

    /// Its name.
    #[must_use]
    pub const fn call_id(&self) -> &CallId {
        &self.call_id
    }

    /// It begins.
    ///
    /// # Errors
    /// A text is empty or too long.
    pub fn new_call(&self, begins: NewCall) -> Result<Event, Invalid> {
        self.event(What::NewCall { user: begins.user, queue: begins.queue })
    }

    /// Somebody is connected to the outside party.
    ///
    /// # Errors
    /// A text is empty or too long.
    pub fn answer(&self, answer: Answer<W>) -> Result<Event, Invalid> {
        self.event(What::Answer { answering_number: answer.answering_number, user: answer.user })
    }

    /// It ends.
    ///
    /// # Errors
    /// None as yet: what a [`Hangup`] says is never wrong.
    pub fn hangup(&self, hangup: impl Into<Hangup>) -> Result<Event, Invalid> {
        self.event(What::Hangup { cause: hangup.into().cause })
    }

    fn event(&self, what: What) -> Result<Event, Invalid> {
        let event = Event {
            call_id: self.call_id.clone(),
            direction: W::DIRECTION,
            from: self.from.clone(),
            to: self.to.clone(),
            what,
        };
        event.check().map(|()| event)
    }
}

/// What is said when a call begins. The default says nothing beyond its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewCall {
    user: Option<String>,
    queue: Option<String>,
}

impl NewCall {
    /// Shown beside `to` of an inbound call, beside `from` of an outbound one.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        Self { user: Some(user.into()), ..self }
    }

    /// Several, shown one after the other, as Zammad itself puts a list together: `Alice, Bob`.
    #[must_use]
    pub fn users<U: AsRef<str>>(self, users: impl IntoIterator<Item = U>) -> Self {
        let users: Vec<U> = users.into_iter().collect();
        let users: Vec<&str> = users.iter().map(AsRef::as_ref).collect();
        self.user(users.join(", "))
    }

    /// Decides which agents see the entry; without one Zammad takes `to` (inbound) or `from` (outbound).
    #[must_use]
    pub fn queue(self, queue: impl Into<String>) -> Self {
        Self { queue: Some(queue.into()), ..self }
    }
}

/// What is said when somebody is connected to the outside party. The default says no more than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<W> {
    answering_number: Option<String>,
    user: Option<String>,
    way: PhantomData<W>,
}

impl<W> Default for Answer<W> {
    fn default() -> Self {
        Self { answering_number: None, user: None, way: PhantomData }
    }
}

impl Answer<Inbound> {
    /// Opens the customer's screen for the agent whose phone number this is.
    #[must_use]
    pub fn answering_number(self, number: impl Into<String>) -> Self {
        Self { answering_number: Some(number.into()), ..self }
    }

    /// Takes the place of the callee's display; tried as an agent's login for the screen as well.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        Self { user: Some(user.into()), ..self }
    }

    /// The mailbox took the call: Zammad then shows it as missed.
    #[must_use]
    pub fn voicemail() -> Self {
        Self::default().user(VOICEMAIL)
    }
}

/// What is said when a call ends. Made of a [`Cause`] alone, nobody is known to have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hangup {
    cause: Cause,
    answered: bool,
}

impl Hangup {
    /// Why the call ended.
    #[must_use]
    pub const fn new(cause: Cause) -> Self {
        Self { cause, answered: false }
    }

    /// The call had been answered. Then its hangup may be repeated when the answer to it is lost; that of a missed call
    /// may not: Zammad would take back the missed mark.
    #[must_use]
    pub const fn answered(self) -> Self {
        Self { answered: true, ..self }
    }

    /// Whether the call is known to have been answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answered
    }
}

impl From<Cause> for Hangup {
    fn from(cause: Cause) -> Self {
        Self::new(cause)
    }
}

/// Why an event is refused before it is sent. Names the field, never what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Zammad demands it, or would show nothing.
    #[error("{field} is empty; {}", if *.field == "from" || *.field == "to" { "say anonymous where no number is known" } else { "leave it out or fill it" })]
    Empty {
        /// By the CTI's name.
        field: &'static str,
    },
    /// Zammad would cut it, without a word.
    #[error("{field} has {length} characters, and Zammad is told {max} at most")]
    TooLong {
        /// By the CTI's name.
        field: &'static str,
        /// How many characters it has.
        length: usize,
        /// How many it may have.
        max: usize,
    },
    /// It has a line break or another control character in it.
    #[error("{field} has a line break or another control character in it; take it out")]
    Control {
        /// By the CTI's name.
        field: &'static str,
    },
    /// It belongs to the answer of an inbound call.
    #[error(
        "{field} does not go with the answer of an outbound call: it would replace the customer's name; leave it out"
    )]
    NotOutbound {
        /// By the CTI's name.
        field: &'static str,
    },
}

impl FromStr for CallId {
    type Err = Invalid;

    /// As it is: Zammad cuts a longer one on save and never finds the call again, so it is refused.
    fn from_str(id: &str) -> Result<Self, Invalid> {
        filled("callId", id)?;
        fits("callId", id, CALL_ID_MAX)?;
        Ok(Self::new(id))
    }
}

impl Event {
    /// Whether Zammad takes it as it is meant: nothing missing, nothing to be cut, nothing that it would misread.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        filled("callId", self.call_id.as_str())?;
        filled("from", &self.from)?;
        filled("to", &self.to)?;
        let (mut optional, mut inbound_only) = ([None, None], [None, None]);
        match &self.what {
            What::NewCall { user, queue } => {
                optional =
                    [("user", user), ("queue", queue)].map(|(field, text)| Some((field, text.as_deref()?)));
            }
            What::Answer { answering_number, user } => {
                inbound_only = [("answeringNumber", answering_number), ("user", user)]
                    .map(|(field, text)| Some((field, text.as_deref()?)));
            }
            What::Hangup { cause: _ } => {}
        }
        if let (Direction::Out, Some((field, _))) =
            (self.direction, inbound_only.into_iter().flatten().next())
        {
            return Err(Invalid::NotOutbound { field });
        }
        for (field, text) in optional.into_iter().chain(inbound_only).flatten() {
            filled(field, text)?;
            fits(field, text, TEXT_MAX)?;
        }
        fits("callId", self.call_id.as_str(), CALL_ID_MAX)?;
        fits("from", &self.from, TEXT_MAX)?;
        fits("to", &self.to, TEXT_MAX)
    }
}

fn filled(field: &'static str, text: &str) -> Result<(), Invalid> {
    if text.trim().is_empty() { Err(Invalid::Empty { field }) } else { Ok(()) }
}

fn fits(field: &'static str, text: &str, max: usize) -> Result<(), Invalid> {
    if text.contains(char::is_control) {
        return Err(Invalid::Control { field });
    }
    match text.chars().count() {
        length if length > max => Err(Invalid::TooLong { field, length, max }),
        _ => Ok(()),
    }
}

fn without_plus(number: &str) -> &str {
    let digits = number.strip_prefix('+').filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    digits.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers<'static> = Numbers { from: "4915112345678", to: "4930555" };

    fn call() -> Call<Inbound> {
        Call::inbound("c".parse().unwrap(), NUMBERS).unwrap()
    }

    #[test]
    fn limits_are_zammads_to_the_character() {
        let long = |length: usize| "ü".repeat(length);
        assert!(long(250).parse::<CallId>().is_ok());
        let too_long = |field, length, max| Invalid::TooLong { field, length, max };
        assert_eq!(long(251).parse::<CallId>().unwrap_err(), too_long("callId", 251, 250));
        let named = |from: &str, to: &str| Call::outbound("c".parse().unwrap(), Numbers { from, to });
        assert!(named(&long(100), &long(100)).is_ok());
        assert_eq!(named(&long(101), "1").unwrap_err(), too_long("from", 101, 100));
        assert_eq!(named("1", &long(101)).unwrap_err(), too_long("to", 101, 100));
        assert!(call().new_call(NewCall::default().user(long(100)).queue(long(100))).is_ok());
        let user = call().new_call(NewCall::default().users([long(50), long(50)]));
        assert_eq!(user.unwrap_err(), too_long("user", 102, 100));
        let queue = call().new_call(NewCall::default().queue(long(101)));
        assert_eq!(queue.unwrap_err(), too_long("queue", 101, 100));
        let number = call().answer(Answer::default().answering_number(long(101)));
        assert_eq!(number.unwrap_err(), too_long("answeringNumber", 101, 100));
        assert_eq!(call().answer(Answer::default().user(long(101))).unwrap_err(), too_long("user", 101, 100));
    }

    #[test]
    fn what_is_empty_is_refused_and_says_so_without_the_rest() {
        let empty = |field| Invalid::Empty { field };
        assert_eq!("".parse::<CallId>().unwrap_err(), empty("callId"));
        let named = |from, to| Call::inbound("c".parse().unwrap(), Numbers { from, to });
        assert_eq!(named("", "1").unwrap_err(), empty("from"));
        assert_eq!(named("1", " ").unwrap_err(), empty("to"));
        assert_eq!(named("+", "1").unwrap_err(), empty("from"));
        assert_eq!(call().answer(Answer::default().user("")).unwrap_err(), empty("user"));
        assert_eq!(named("1\0", "1").unwrap_err(), Invalid::Control { field: "from" });
        assert_eq!("a\nb".parse::<CallId>().unwrap_err(), Invalid::Control { field: "callId" });
        let said = named("49151123456789".repeat(8).as_str(), "1").unwrap_err().to_string();
        assert!(!said.contains("4915"), "{said}");
    }

    #[test]
    fn an_event_from_elsewhere_is_held_to_the_same() {
        let mut event = call().answer(Answer::default().user("Bob")).unwrap();
        assert_eq!(event.check(), Ok(()));
        event.direction = Direction::Out;
        assert_eq!(event.check(), Err(Invalid::NotOutbound { field: "user" }));
        event.what = What::Answer { answering_number: Some("1001".into()), user: None };
        assert_eq!(event.check(), Err(Invalid::NotOutbound { field: "answeringNumber" }));
        event.what = What::Answer { answering_number: None, user: None };
        assert_eq!(event.check(), Ok(()));
        event.from.clear();
        assert_eq!(event.check(), Err(Invalid::Empty { field: "from" }));
    }

    #[test]
    fn only_the_plus_of_a_number_goes() {
        for (given, told) in [
            ("+4930555", "4930555"),
            ("4930555", "4930555"),
            ("+49 30", "+49 30"),
            ("anonymous", "anonymous"),
        ] {
            assert_eq!(without_plus(given), told);
        }
    }
}
