//! What must not stand in a log line: telephone numbers, and what only we and a peer know. Pure.
//!
//! Our own lines hold neither. This is for what others put into them: an error that Zammad words, a cause or an id
//! that the switch names.

/// What stands in place of what is masked.
const MASK: &str = "****";
/// Digits in a row from which on they are taken for a number. Extensions, ports, years and statuses have fewer.
const DIGITS: usize = 6;
/// A secret that is shorter could stand in any text by chance, and masking it would only tell where.
const SECRET_MIN: usize = 4;

/// As [`runs`] and [`one_line`].
#[must_use]
pub fn numbers(text: &str) -> String {
    one_line(&runs(text))
}

/// `text` with what would end the line or steer a terminal escaped.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// `text` without runs of 6 or more digits, except within a UUID, which is nobody's number.
#[must_use]
pub fn runs(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = match rest.find(|c: char| !c.is_ascii_hexdigit() && c != '-') {
            Some(0) => {
                masked.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            Some(end) => &rest[..end],
            None => rest,
        };
        if is_uuid(word) {
            masked.push_str(word);
        } else {
            without_runs(word, &mut masked);
        }
        rest = &rest[word.len()..];
    }
    masked
}

/// `line` without these secrets.
#[must_use]
pub fn secrets(line: &str, secrets: &[String]) -> String {
    let mut masked = line.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_MIN) {
        if masked.contains(secret.as_str()) {
            masked = masked.replace(secret.as_str(), MASK);
        }
    }
    masked
}

/// A telephone number with only its last two digits shown, so that two calls can be told apart; always as long as any
/// other. What is shorter than a number (an extension) or says that there is none (`anonymous`) is shown.
#[must_use]
pub fn number(number: &str) -> String {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    if digits.len() < DIGITS {
        numbers(number)
    } else {
        format!("••••{}", &digits[digits.len() - 2..])
    }
}

fn is_uuid(word: &str) -> bool {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    word.len() == 36 && word.bytes().enumerate().all(|(at, b)| (b == b'-') == DASHES.contains(&at))
}

fn without_runs(word: &str, masked: &mut String) {
    let mut rest = word;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let run = &rest[start..];
        let end = run.find(|c: char| !c.is_ascii_digit()).unwrap_or(run.len());
        masked.push_str(&rest[..start]);
        masked.push_str(if end >= DIGITS { MASK } else { &run[..end] });
        rest = &run[end..];
    }
    masked.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_masked_and_what_is_none_is_kept() {
        for (text, shown) in [
            ("Invalid value '+4915112345678'!", "Invalid value '+****'!"),
            ("0049151-12345678, 015112345678", "****-****, ****"),
            ("c2c-4915112345678-a", "c2c-****-a"),
            ("abc4915112345678def", "abc****def"),
            ("1001 at 192.0.2.17:8021, HTTP 422, 5 s", "1001 at 192.0.2.17:8021, HTTP 422, 5 s"),
            ("82ac7419-a888-417e-88d9-a0bd613f105d", "82ac7419-a888-417e-88d9-a0bd613f105d"),
            ("82ac7419-a888-417e-88d9-123456789012,", "82ac7419-a888-417e-88d9-123456789012,"),
            ("82ac7419-a888-417e-88d9-1234567890123", "82ac7419-a888-417e-88d9-****"),
            ("49151123-4567-8901-2345", "****-4567-8901-2345"),
            ("a\nWARN b\x1b[31m", "a\\nWARN b\\u{1b}[31m"),
            ("Jürgen … 12345", "Jürgen … 12345"),
            ("", ""),
        ] {
            assert_eq!(numbers(text), shown);
        }
    }

    #[test]
    fn of_a_number_the_last_digits_show() {
        for (whole, shown) in [
            ("4915112345678", "••••78"),
            ("493055", "••••55"),
            ("sip:030/555-100@pbx", "••••00"),
            ("1001", "1001"),
            ("anonymous", "anonymous"),
            ("", ""),
        ] {
            assert_eq!(number(whole), shown);
        }
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let all = ["tOken".to_owned(), "pass word".to_owned(), "abc".to_owned(), String::new()];
        assert_eq!(secrets("/cti/tOken?tOken pass word abc", &all), "/cti/****?**** **** abc");
        assert_eq!(secrets("nothing", &all), "nothing");
    }
}
