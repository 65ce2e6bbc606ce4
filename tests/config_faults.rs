//! What is wrong is said once and whole: file, line, key, remedy, all faults together, and never a secret.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use freeswitch_zammad::config::{Config, ConfigError, Environment, Loaded, Overrides, Secret};
use freeswitch_zammad::cti::client::Tls;

#[test]
fn a_fault_is_one_line_with_file_line_key_and_remedy() {
    let error = load("\n\n[[switch]]\nname = \"main\"\npassword = \"x\"\n\naddress = \"localhost\"\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.toml: line 7: switch[0].address: \"localhost\" has no port; write HOST:PORT, for example \
         127.0.0.1:8021"
    );
}

/// Each: what the file says after a sound beginning, then line, key, and a piece of what and of remedy.
#[test]
fn every_value_is_checked_and_every_remedy_said() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str)] = &[
        // The whole file.
        ("country = \"Germany\"", "1: country", "\"Germany\" is no country", "two letters of ISO 3166"),
        ("country = 49", "1: country", "is a number", "a text in quotes"),
        ("state_dir = \"\"", "1: state_dir", "is empty", "take the line out"),
        ("delivery = 3", "1: delivery", "is a number, not a table", "[delivery]"),
        ("switch = \"x\"", "1: switch", "is a text, not a list of tables", "[[switch]]"),
        ("switch = [3]", "1: switch[0]", "is a number, not a table", "[[switch]]"),
        ("[zammad]\nurl = \"https://z.test/api/v1/cti/t\"", "1: zammad", "several", "[[zammad]], in double brackets"),
        // Switches.
        ("[[switch]]\naddress = \"[::1]\"", "2: switch[0].address", "has no port", "HOST:PORT"),
        ("[[switch]]\naddress = 8021", "2: switch[0].address", "is a number", "a text in quotes"),
        ("[[switch]]\npassword = \"\"", "2: switch[0].password", "is empty", "write a value"),
        ("[[switch]]\npassword = \"a\\nb\"", "2: switch[0].password", "line break", "on one line"),
        ("[[switch]]\npassword = \"a\"\npassword_file = \"b\"", "3: switch[0].password_file", "both given", "keep one"),
        ("[[switch]]\npassword_file = \"absent\"", "2: switch[0].password_file", "cannot be read", "that exists"),
        ("[[switch]]\nuser = \"1001\"", "2: switch[0].user", "no user of the directory", "USER@DOMAIN"),
        ("[[switch]]\nname = \"Haus 1\"", "2: switch[0].name", "is no name", "1 to 32 letters"),
        ("[[switch]]\nheartbeat_timeout_s = 1", "2: switch[0].heartbeat_timeout_s", "1 is out of bounds", "5 to 3600; the default is 65"),
        ("[[switch]]\nheartbeat_timeout_s = -1", "2: switch[0].heartbeat_timeout_s", "-1 is out of bounds", "5 to 3600"),
        ("[[switch]]\nheartbeat_timeout_s = \"65\"", "2: switch[0].heartbeat_timeout_s", "is a text", "without quotes"),
        ("[[switch]]\nheartbeat_timeout_s = 6.5", "2: switch[0].heartbeat_timeout_s", "decimal point", "whole number"),
        ("[[switch]]\nzammad = \"b\"", "2: switch[0].zammad", "there is no Zammad \"b\"", "name one of [[zammad]]: main"),
        ("[[switch]]\n[[switch]]\nname = \"b\"\naddress = \"h:1\"\npassword = \"x\"", "1: switch[0].name", "is missing, and there are several", "name = \"main\""),
        ("[[switch]]\n[[switch]]\nname = \"b\"\naddress = \"h:1\"\npassword = \"x\"", "1: switch[0].address", "nothing says where", "HOST:PORT"),
        ("[[switch]]\nname = \"a\"\n[[switch]]\nname = \"a\"", "4: switch[1].name", "is the same as switch[0].name", "its own name"),
        ("[[switch]]\naddress = \"h:1\"\n[[switch]]\naddress = \"h:1\"", "4: switch[1].address", "is the same as switch[0].address", "every call twice"),
        ("[[switch]]\nuser = \"1001@d:pw\"", "2: switch[0].user", "holds a colon", "USER@DOMAIN"),
        ("[[zammad]]\nurl_file = \"https://z.test/x\"", "2: zammad[0].url_file", "is a URL", "the path of a file"),
        // Rules.
        ("[[switch]]\n[[switch.rule]]\nside = \"ours\"", "2: switch[0].rule[0]", "nothing to match", "give it a profile"),
        ("[[switch]]\n[[switch.rule]]\nprofile = \"x\"", "2: switch[0].rule[0].side", "does not say what", "\"plumbing\""),
        ("[[switch]]\n[[switch.rule]]\nprofile = \"x\"\nside = \"outsider\"", "4: switch[0].rule[0].side", "\"outsider\" is not known", "did you mean outside?"),
        ("[[switch]]\n[[switch.rule]]\ndirection = \"in\"\nside = \"ours\"", "3: switch[0].rule[0].direction", "\"in\" is not known", "inbound, outbound"),
        ("[[switch]]\n[[switch.rule]]\nprofile = \"\"\nside = \"ours\"", "3: switch[0].rule[0].profile", "is empty", "write a value"),
        // Zammads.
        ("[[zammad]]\nurl = \"https://z.test\"", "2: zammad[0].url", "names only the host z.test", "Integrations > CTI (generic)"),
        ("[[zammad]]\nurl = \"https://z.test/api/v1/cti/t?x\"", "2: zammad[0].url", "goes on after the token", "end it with the token"),
        ("[[zammad]]\nurl_file = \"absent\"", "2: zammad[0].url_file", "cannot be read", "that exists"),
        ("[[zammad]]\ntls = false", "2: zammad[0].tls", "is true or false", "a text in quotes"),
        ("[[zammad]]\ntls = \"off\"", "2: zammad[0].tls", "\"off\" is not known", "verify, insecure-accept-any-certificate"),
        ("[[zammad]]\ntls = \"insecure\"", "2: zammad[0].tls", "\"insecure\" is not known", "did you mean insecure-accept-any-certificate?"),
        ("[outbox]\nca_file = \"absent\"\nurl = \"postgres://u@h/d\"\nnode = \"a\"", "2: outbox.ca_file", "cannot be read", "that exists"),
        ("[outbox] # -----BEGIN CERTIFICATE-----\nca_file = \"config.toml\"\nurl = \"postgres://u@h/d\"\nnode = \"a\"", "2: outbox.ca_file", "asks for no encryption", "sslmode=require"),
        ("[outbox]\nurl = \"postgres://u@h/d?sslmode=require\"\nca_file = \"config.toml\"\nnode = \"a\"", "3: outbox.ca_file", "holds no certificate", "BEGIN CERTIFICATE"),
        ("[[zammad]]\nca_file = \"absent\"", "2: zammad[0].ca_file", "cannot be read", "that exists"),
        ("[[zammad]]\nca_file = \"config.toml\"", "2: zammad[0].ca_file", "holds no certificate", "BEGIN CERTIFICATE"),
        ("[[zammad]]\nca_file = \"/dev/null\"\ntls = \"insecure-accept-any-certificate\"", "2: zammad[0].ca_file", "says that none is checked", "take out the tls line"),
        ("[[zammad]]\ntimeout_s = 301", "2: zammad[0].timeout_s", "301 is out of bounds", "1 to 300; the default is 10"),
        ("[[zammad]]\nname = \"a\"\n[[zammad]]\nname = \"a\"", "4: zammad[1].name", "is the same as zammad[0].name", "its own name"),
        ("[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t/\"", "4: zammad[1].url", "is the same as zammad[0].url", "each Zammad once"),
        // Delivery, calls, causes.
        ("[delivery]\nconcurrency = 0", "2: delivery.concurrency", "0 is out of bounds", "1 to 256"),
        ("[delivery]\nretry_wait_ms_min = 49", "2: delivery.retry_wait_ms_min", "out of bounds", "50 to"),
        ("[delivery]\nretry_wait_ms_max = 3600001", "2: delivery.retry_wait_ms_max", "out of bounds", "to 3600000"),
        ("[delivery]\nretry_wait_ms_min = 5000\nretry_wait_ms_max = 4000", "3: delivery.retry_wait_ms_max", "shorter than the first", "at least retry_wait_ms_min"),
        ("[delivery]\ndelivered_keep_h = 0", "2: delivery.delivered_keep_h", "out of bounds", "1 to"),
        ("[delivery]\ndead_keep_d = 0", "2: delivery.dead_keep_d", "out of bounds", "1 to"),
        ("[delivery]\ndead_keep_max = 0", "2: delivery.dead_keep_max", "out of bounds", "1 to"),
        ("[delivery]\nlate_policy = \"maybe\"", "2: delivery.late_policy", "maybe", "missed-only"),
        ("[[route]]\nzammad = \"main\"", "1: route[0]", "nothing to match", "number"),
        ("[[route]]\nnumber = \"49*\"", "1: route[0].zammad", "where such calls go", "zammad = "),
        ("[[route]]\nnumber = \"49*\"\nzammad = \"other\"", "3: route[0].zammad", "no Zammad", "main"),
        ("[calls]\nend_blocked_with = \"REJECTED\"", "2: calls.end_blocked_with", "no hangup cause", "CALL_REJECTED"),
        ("[delivery]\nlate_after_s = 0", "2: delivery.late_after_s", "out of bounds", "1 to"),
        ("[calls]\ninternal = \"no\"", "2: calls.internal", "is a text", "true or false"),
        ("[causes]\nuser_busy = \"busy\"", "2: causes.user_busy", "does not look like", "in capitals"),
        ("[causes]\nUSER_BUSY = \"Busy\"", "2: causes.USER_BUSY", "\"Busy\" is not known", "did you mean busy?"),
        ("[log]\nlevel = \"inof\"", "2: log.level", "\"inof\" is no log level", "error, warn, info"),
        ("[log]\nlevel = \"info,freeswitch_zammad=loud\"", "2: log.level", "cannot be read", "MODULE=LEVEL"),
        ("[log]\nformat = \"xml\"", "2: log.format", "\"xml\" is not known", "auto, journald, json, plain"),
        ("[log]\nlevel = 3", "2: log.level", "is a number", "a text in quotes"),
        ("[causes]\nUSER_BUSY = 17", "2: causes.USER_BUSY", "is a number", "a text in quotes"),
        // People and queues.
        ("[[agent]]\nuser = \"Anton\"", "1: agent[0].extension", "is missing", "extension = \"1001\""),
        ("[[agent]]\nextension = \"1001@\"", "2: agent[0].extension", "is no extension", "1001@"),
        ("[[agent]]\nextension = \"1\"\n[[agent]]\nextension = \"1\"", "4: agent[1].extension", "is the same as agent[0].extension", "1001@DOMAIN"),
        ("[[agent]]\nextension = \"1\"\nnumber = \"030555\"", "3: agent[0].number", "begins with 0", "country code"),
        ("[[agent]]\nextension = \"1\"\nuser = \"voicemail\"", "3: agent[0].user", "for missed", "another name"),
        ("[[queue]]\nname = \"Support\"", "1: queue[0].number", "is missing", "number = "),
        ("[[queue]]\nnumber = \"4930555100\"", "1: queue[0].name", "is missing", "name = "),
        ("[[queue]]\nnumber = \"1\"\nname = \"a\"\n[[queue]]\nnumber = \"+1\"\nname = \"b\"", "5: queue[1].number", "is the same as queue[0].number", "once"),
    ];
    for (text, place, what, remedy) in cases {
        let error = load(text).expect_err(text);
        let start = format!("config.toml: line {place}: ");
        let found = error.faults.iter().find(|fault| fault.to_string().starts_with(&start));
        let found = found.unwrap_or_else(|| panic!("{text}\n  wanted {start}\n{error}"));
        assert!(found.what.contains(what) && found.remedy.contains(remedy), "{text}\n{error}");
        assert_eq!(found.to_string().lines().count(), 1);
    }
    let long = format!("[[queue]]\nnumber = \"1\"\nname = \"{}\"", "ü".repeat(101));
    assert!(load(&long).unwrap_err().to_string().contains("has 101 characters, and Zammad keeps 100"));
}

#[test]
fn the_same_texts_without_their_faults_are_accepted() {
    let sound = r#"
        country = "at"
        [[switch]]
        address = "[::1]:8021"
        password = "x"
        user = "1001@pbx.test"
        [[switch.rule]]
        channel = "sofia/internal/+*"
        direction = "outbound"
        side = "outside"
        [[switch.rule]]
        context = "public"
        side = "plumbing"
        [[zammad]]
        url = "https://z.test/api/v1/cti/t"
        [causes]
        USER_BUSY = "forwarded"
        [[agent]]
        extension = "1001"
        [[agent]]
        extension = "1001@pbx.test"
        number = "+49 30 555001"
        [[queue]]
        number = "+49 30 555100"
        name = "Support"
        [log]
        level = "warn, freeswitch_zammad::esl=debug"
    "#;
    let config = load(sound).unwrap().config;
    assert_eq!(config.country.to_string(), "AT");
    assert_eq!(config.switches[0].rules.len(), 2);
    assert_eq!(config.agents[1].number.as_ref().unwrap().as_str(), "4930555001");
    assert_eq!(config.queues[0].number.as_str(), "4930555100");
    assert_eq!(config.log.level.as_str(), "warn,freeswitch_zammad::esl=debug");
}

#[test]
fn all_faults_are_reported_together_in_the_files_order() {
    let text = "[[switch]]\nadress = \"h:1\"\nuser = \"x\"\nheartbeat_timeout_s = 0\n[[zammad]]\nurl = \"https://z\"\ntimeout = 5\n[extra]\n";
    let environment: Environment = [("ZammadCTI_VERIFY_SSL", "perhaps")].into_iter().collect();
    let flags = Overrides { country: Some("Utopia".into()), ..Overrides::default() };
    let error = load_with(text, &flags, &environment).unwrap_err();
    let shown = error.to_string();
    let starts = [
        "config.toml: line 1: switch[0].password: nothing says the event socket's password; ",
        "config.toml: line 2: switch[0].adress: unknown key; did you mean address?",
        "config.toml: line 3: switch[0].user: ",
        "config.toml: line 4: switch[0].heartbeat_timeout_s: ",
        "config.toml: line 6: zammad[0].url: ",
        "config.toml: line 7: zammad[0].timeout: unknown key; did you mean timeout_s?",
        "config.toml: line 8: extra: unknown key; known here: state_dir, country, switch, ",
        "environment variable ZammadCTI_VERIFY_SSL: zammad[0].tls: ",
        "--country: country: \"Utopia\" is no country",
    ];
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), starts.len(), "{shown}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n  wanted {start}");
    }
}

#[test]
fn unknown_keys_are_refused_in_every_table_with_the_nearest_known_one() {
    for (text, place, remedy) in [
        ("contry = \"DE\"", "1: contry", "did you mean country?"),
        ("[[switches]]", "1: switches", "did you mean switch?"),
        ("[[switch]]\nhost = \"h\"", "2: switch[0].host", "did you mean address?"),
        (
            "[[switch]]\n[[switch.rule]]\nprofil = \"h\"",
            "3: switch[0].rule[0].profil",
            "did you mean profile?",
        ),
        ("[[zammad]]\nverify_tls = false", "2: zammad[0].verify_tls", "did you mean tls?"),
        ("[[zammad]]\nverify_ssl = false", "2: zammad[0].verify_ssl", "did you mean tls?"),
        ("[delivery]\nlate_after_sec = 1", "2: delivery.late_after_sec", "did you mean late_after_s?"),
        ("[calls]\ninteral = true", "2: calls.interal", "did you mean internal?"),
        ("[log]\ncolour = \"red\"", "2: log.colour", "known here: level, format"),
        ("[[agent]]\nusername = \"a\"", "2: agent[0].username", "known here: extension, user, number"),
        ("[[queue]]\nNumber = \"1\"", "2: queue[0].Number", "did you mean number?"),
    ] {
        let error = load(text).unwrap_err().to_string();
        let wanted = format!("config.toml: line {place}: unknown key; {remedy}");
        assert!(error.lines().any(|line| line == wanted), "wanted {wanted}\n{error}");
    }
}

#[test]
fn nothing_at_all_says_where_to_begin() {
    let error = load("").unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].starts_with("configuration: zammad[0].url: nothing says where Zammad's CTI is; "),
        "{error}"
    );
    assert!(lines[0].contains("FREESWITCH_ZAMMAD_ZAMMAD_URL"), "{error}");
    assert!(
        lines[1].starts_with("configuration: switch[0].password: nothing says the event socket's"),
        "{error}"
    );
    assert!(lines[1].contains("event_socket.conf.xml"), "{error}");
}

#[test]
fn what_is_not_toml_is_refused_by_line_without_showing_the_line() {
    for text in [
        "[[switch]]\npassword = s3cret",
        "[[switch]]\npassword = \"s3cret",
        "[[switch]]\npassword = 's3cret\"",
        "[[switch]]\npassword \"s3cret\"",
        "[[switch]]\npassword = \"s3cret\" s3cret",
        "[[switch]]\npassword: s3cret",
        "[[switch]]\ns3cret",
        "[[switch]]\npassword = \"\\s3cret\"",
        "password = 's3cret'\npassword = 's3cret'",
        "[[zammad]]\nurl = https://z.test/api/v1/cti/s3cret",
    ] {
        let error = load(text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains("config.toml: line 2: "), "{text}\n{shown}");
        assert!(shown.contains("; correct the TOML on this line"), "{text}\n{shown}");
        assert!(!shown.contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{text}\n{shown}");
    }
    let error = load("a = \nb = 1\nc = = 2\n").unwrap_err();
    assert_eq!(error.faults.len(), 2, "every line that is not TOML: {error}");
}

#[test]
fn no_secret_shows_in_any_type_or_message() {
    const TOKEN: &str = "tOkEn-55555";
    const PASSWORD: &str = "pAsSwOrD-66666";
    let text = format!(
        "[[switch]]\npassword = \"{PASSWORD}\"\n[[zammad]]\nurl = \"http://z.test/api/v1/cti/{TOKEN}\"\n"
    );
    let Loaded { config, warnings } = load(&text).unwrap();
    let flags = Overrides {
        zammad_url: Some(Secret::new(format!("http://z.test/api/v1/cti/{TOKEN}"))),
        freeswitch_password: Some(Secret::new(PASSWORD)),
        ..Overrides::default()
    };
    let variables = [("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", PASSWORD), ("ZammadCTI_URL", TOKEN)];
    let environment: Environment = variables.into_iter().collect();
    let by_flags = load_with("", &flags, &environment).unwrap();
    assert_eq!(config.switches[0].password.expose(), PASSWORD);
    assert_eq!(config.zammads[0].url.expose_token(), TOKEN);
    let mut shown = vec![
        format!("{config:?}"),
        format!("{config:#?}"),
        format!("{by_flags:?}"),
        format!("{flags:?} {environment:?}"),
        format!("{} {}", config.zammads[0].url, config.switches[0].password),
    ];
    shown.extend(warnings.iter().chain(&by_flags.warnings).map(ToString::to_string));

    // And in the faults of a configuration in which everything secret is wrong.
    let broken = [
        format!("[[switch]]\npassword = \"{PASSWORD}\\n\"\n[[zammad]]\nurl = \"http://z.test/{TOKEN}\"\n"),
        format!("[[switch]]\npassword = [\"{PASSWORD}\"]\n[[zammad]]\nurl = {{ x = \"{TOKEN}\" }}\n"),
        format!(
            "[[zammad]]\nurl = \"{TOKEN}\"\n[[zammad]]\nurl = \"http://u:{TOKEN}@z.test/api/v1/cti/{TOKEN}\""
        ),
        format!(
            "[[switch]]\npassword = \"{PASSWORD}\"\npassword_file = \"x\"\n[[zammad]]\nurl = \"ftp://{TOKEN}\""
        ),
    ];
    for text in broken {
        let error = load(&text).unwrap_err();
        shown.push(error.to_string());
        shown.push(format!("{error:?}"));
    }
    for text in shown {
        assert!(!text.contains(TOKEN) && !text.contains(PASSWORD), "{text}");
    }
}

#[test]
fn verification_is_switched_off_only_in_words_and_is_warned_of() {
    let sound = |line: &str| {
        let text = format!(
            "country = \"DE\"\n[[switch]]\npassword = \"x\"\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\n{line}\n"
        );
        load(&text).unwrap()
    };
    assert_eq!(sound("").config.zammads[0].tls, Tls::System);
    assert!(sound("tls = \"verify\"").warnings.is_empty());
    let loaded = sound("tls = \"insecure-accept-any-certificate\"");
    assert_eq!(loaded.config.zammads[0].tls, Tls::AcceptAnything);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(
        loaded.warnings[0]
            .to_string()
            .starts_with("config.toml: line 6: zammad[0].tls: Zammad's certificate")
    );
}

#[test]
fn plain_http_is_warned_of_unless_it_stays_on_this_machine() {
    for (url, warned) in [
        ("http://z.test/api/v1/cti/t", true),
        ("http://127.0.0.1:3000/api/v1/cti/t", false),
        ("http://localhost/api/v1/cti/t", false),
        ("https://z.test/api/v1/cti/t", false),
    ] {
        let text = format!("country = \"DE\"\n[[switch]]\npassword = \"x\"\n[[zammad]]\nurl = \"{url}\"\n");
        let warnings = load(&text).unwrap().warnings;
        assert_eq!(warnings.iter().any(|w| w.what.contains("unencrypted")), warned, "{url}: {warnings:?}");
    }
}

#[test]
fn doubtful_settings_are_warned_of() {
    let text = "[[switch]]\naddress = \"pbx.test:8021\"\npassword = \"ClueCon\"\nheartbeat_timeout_s = 20\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\n";
    let warnings = load(text).unwrap().warnings;
    let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["country", "switch[0].password", "switch[0].heartbeat_timeout_s"]);
    let flags = Overrides { freeswitch_password: Some(Secret::new("x")), ..Overrides::default() };
    let warnings = load_with(text, &flags, &Environment::default()).unwrap().warnings;
    assert!(
        warnings.iter().any(|w| w.to_string().starts_with("--freeswitch-password: switch[0].password: "))
    );
}

#[test]
fn a_cause_that_freeswitch_does_not_have_is_pointed_out_and_kept() {
    let text = "country = \"DE\"\n[[switch]]\npassword = \"x\"\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\n\
                [causes]\nUSER_BUSY = \"busy\"\nUSER_BUZY = \"busy\"\nZ_OF_A_MODULE = \"cancel\"\n";
    let loaded = load(text).unwrap();
    let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let none_such = "FreeSWITCH itself has no such hangup cause";
    assert_eq!(
        texts,
        [
            format!(
                "config.toml: line 8: causes.USER_BUZY: {none_such}; did you mean USER_BUSY? Leave it if a module of \
                 yours says it"
            ),
            format!(
                "config.toml: line 9: causes.Z_OF_A_MODULE: {none_such}; leave it if a module of yours says it, else \
                 take it out"
            ),
        ]
    );
    assert_eq!(loaded.config.causes.len(), 3);
}

#[test]
fn certificates_to_trust_are_kept_and_do_not_fill_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\nMIIBfrom-the-file\n-----END CERTIFICATE-----\n";
    let path = folder.path().join("ca.pem");
    fs::write(&path, pem).unwrap();
    let text = format!(
        "[[switch]]\npassword = \"x\"\n[[zammad]]\nurl = \"https://z.test/api/v1/cti/t\"\nca_file = {path:?}\n"
    );
    let config = load(&text).unwrap().config;
    assert_eq!(config.zammads[0].tls, Tls::Ca(pem.into()));
    let shown = format!("{config:?}");
    assert!(shown.contains("tls: Ca(") && !shown.contains("MIIB"), "{shown}");
}

#[test]
fn secrets_that_everybody_can_read_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let password = folder.path().join("password");
    let warned = |text: &str, config_mode: u32, password_mode: u32| {
        for (path, text, mode) in [(&path, text, config_mode), (&password, "pw\n", password_mode)] {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let url = [("ZammadCTI_URL", "https://z.test/api/v1/cti/t")];
        let loaded = Config::load(&Overrides::default(), &url.into_iter().collect(), &path).unwrap();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let by_file = "country = \"DE\"\n[[switch]]\npassword_file = \"password\"\n";
    let in_place = "country = \"DE\"\n[[switch]]\npassword = \"pw\"\n";
    assert!(warned(by_file, 0o644, 0o600).is_empty(), "a file without secrets may be read by all");
    assert!(warned(in_place, 0o640, 0o600).is_empty());
    let open = warned(in_place, 0o644, 0o600);
    assert!(
        open[0].contains("switch[0].password: a secret stands in a file") && open[0].contains("chmod 600")
    );
    let open = warned(by_file, 0o600, 0o604);
    assert!(
        open[0].contains("line 3: switch[0].password_file: ") && open[0].contains("chmod 600"),
        "{open:?}"
    );
}

#[test]
fn a_secret_file_holds_one_line_of_bounded_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let try_with = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let variables = [
            ("ZammadCTI_URL", "https://z.test/api/v1/cti/t"),
            ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD_FILE", path.to_str().unwrap()),
        ];
        let environment = variables.into_iter().collect();
        Config::load(&Overrides::default(), &environment, &folder.path().join("config.toml"))
    };
    for (bytes, kept) in [(&b"a b"[..], "a b"), (b"pw\n", "pw"), (b"pw\r\n", "pw"), (b" pw ", " pw ")] {
        assert_eq!(try_with(bytes).unwrap().config.switches[0].password.expose(), kept);
    }
    for (bytes, what) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (b"pw\n\n", "line break"),
        (b"p\nw", "line break"),
        (b"\xff", "is not UTF-8"),
        (&[b'x'; 5000], "more than 4096 bytes"),
    ] {
        let error = try_with(bytes).unwrap_err();
        assert_eq!(error.faults.len(), 1, "{error}");
        assert!(error.faults[0].what.contains(what), "{error}");
    }
}

fn load(text: &str) -> Result<Loaded, ConfigError> {
    load_with(text, &Overrides::default(), &Environment::default())
}

/// Loads `text` from a file; the folder's name is taken out of what is reported.
fn load_with(text: &str, flags: &Overrides, environment: &Environment) -> Result<Loaded, ConfigError> {
    use freeswitch_zammad::config::Origin;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let shorten = |origin: &mut Origin| {
        if let Origin::File { path, .. } = origin {
            *path = path.file_name().unwrap().into();
        }
    };
    match Config::load(flags, environment, &path) {
        Ok(mut loaded) => {
            loaded.warnings.iter_mut().for_each(|warning| shorten(&mut warning.origin));
            Ok(loaded)
        }
        Err(mut error) => {
            error.faults.iter_mut().for_each(|fault| shorten(&mut fault.origin));
            Err(error)
        }
    }
}
