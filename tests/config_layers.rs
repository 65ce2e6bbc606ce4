//! Which layer wins: systemd's credentials < file < environment < flags, and what needs no file at all.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use freeswitch_zammad::call::number::Country;
use freeswitch_zammad::config::{
    Config, ConfigError, Environment, Loaded, Origin, Overrides, Secret, Warning,
};
use freeswitch_zammad::cti::client::Tls;

#[test]
fn one_switch_and_one_zammad_need_no_file() {
    let here = Here::new();
    let config = here.env(&[(URL, "https://z.test/api/v1/cti/tok"), (PASSWORD, "pw")]).config;
    assert_eq!(config.switches.len(), 1);
    assert_eq!(config.switches[0].name.as_str(), "main");
    assert_eq!(config.switches[0].address.to_string(), "127.0.0.1:8021");
    assert_eq!(config.switches[0].heartbeat_timeout.as_secs(), 65);
    assert_eq!(config.switches[0].password.expose(), "pw");
    assert_eq!(config.zammad_of(&config.switches[0]).url.expose(), "https://z.test/api/v1/cti/tok");
    assert_eq!(config.zammads[0].tls, Tls::System);
    assert_eq!(config.state_dir, Path::new("/var/lib/freeswitch-zammad"));
    assert_eq!(config.country, Country::DEFAULT);
    assert!(!config.calls.report_internal);
}

#[test]
fn flags_beat_environment_beats_file() {
    let here = Here::new();
    here.write(
        "config.toml",
        r#"
        state_dir = "/file"
        country = "AT"
        [[switch]]
        address = "file:1"
        user = "file@d"
        password = "file-pw"
        [[zammad]]
        url = "https://file.test/api/v1/cti/tok"
        tls = "verify"
        "#,
    );
    let seen = |config: &Config| {
        let (switch, zammad) = (&config.switches[0], &config.zammads[0]);
        [
            config.state_dir.display().to_string(),
            config.country.to_string(),
            switch.address.to_string(),
            switch.user.as_ref().map(ToString::to_string).unwrap_or_default(),
            switch.password.expose().to_owned(),
            zammad.url.expose().to_owned(),
            (zammad.tls == Tls::System).to_string(),
        ]
    };
    let by_file = here.env(&[]).config;
    let file_url = "https://file.test/api/v1/cti/tok";
    assert_eq!(seen(&by_file), ["/file", "AT", "file:1", "file@d", "file-pw", file_url, "true"]);

    let variables = [
        ("FREESWITCH_ZAMMAD_STATE_DIR", "/env"),
        ("FREESWITCH_ZAMMAD_COUNTRY", "CH"),
        ("FREESWITCH_ZAMMAD_FREESWITCH", "env:1"),
        ("FREESWITCH_ZAMMAD_FREESWITCH_USER", "env@d"),
        (PASSWORD, "env-pw"),
        (URL, "https://env.test/api/v1/cti/tok"),
        ("FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL", "No"),
        // Weaker than all of it.
        ("STATE_DIRECTORY", "/systemd"),
    ];
    let by_variable = here.env(&variables).config;
    let env_url = "https://env.test/api/v1/cti/tok";
    assert_eq!(seen(&by_variable), ["/env", "CH", "env:1", "env@d", "env-pw", env_url, "false"]);

    let flags = Overrides {
        config: None,
        zammad_url: Some(Secret::new("https://flag.test/api/v1/cti/tok")),
        zammad_url_file: None,
        zammad_verify_ssl: Some(true),
        freeswitch: Some("flag:1".into()),
        freeswitch_user: Some("flag@d".into()),
        freeswitch_password: Some(Secret::new("flag-pw")),
        freeswitch_password_file: None,
        state_dir: Some("/flag".into()),
        country: Some("FR".into()),
    };
    let by_flag = here.load(&flags, &variables).unwrap().config;
    let flag_url = "https://flag.test/api/v1/cti/tok";
    assert_eq!(seen(&by_flag), ["/flag", "FR", "flag:1", "flag@d", "flag-pw", flag_url, "true"]);
}

#[test]
fn a_stronger_password_file_hides_a_weaker_password() {
    let here = Here::new();
    here.write("config.toml", "[[switch]]\npassword = \"file-pw\"\n");
    let file = here.write("pw", "from-a-file\r\n");
    let variables = [(URL, "https://z.test/api/v1/cti/tok"), (PASSWORD_FILE, file.to_str().unwrap())];
    assert_eq!(here.env(&variables).config.switches[0].password.expose(), "from-a-file");

    let other = here.write("pw2", "from-a-flag");
    let flags = Overrides { freeswitch_password_file: Some(other), ..Overrides::default() };
    let loaded = here.load(&flags, &variables).unwrap();
    assert_eq!(loaded.config.switches[0].password.expose(), "from-a-flag");
}

#[test]
fn a_stronger_url_file_hides_a_weaker_url_and_no_ps_shows_it() {
    let here = Here::new();
    here.write("config.toml", "[[zammad]]\nurl = \"https://file.test/api/v1/cti/tok\"\n");
    let file = here.write("url", "https://env.test/api/v1/cti/tok\n");
    let theirs = ("ZammadCTI_URL", "https://py.test/api/v1/cti/tok");
    let variables = [(URL_FILE, file.to_str().unwrap()), (PASSWORD, "pw"), theirs];
    assert_eq!(here.env(&variables).config.zammads[0].url.host(), "env.test");

    let other = here.write("url2", "https://flag.test/api/v1/cti/tok");
    let flags = Overrides { zammad_url_file: Some(other), ..Overrides::default() };
    let loaded = here.load(&flags, &variables).unwrap();
    assert_eq!(loaded.config.zammads[0].url.host(), "flag.test");
    let of_ps = |loaded: &Loaded| loaded.warnings.iter().any(|w| w.to_string().contains("runs ps"));
    assert!(!of_ps(&loaded));

    let flags = Overrides {
        zammad_url: Some(Secret::new("https://flag.test/api/v1/cti/tok")),
        ..Overrides::default()
    };
    let loaded = here.load(&flags, &variables).unwrap();
    assert!(of_ps(&loaded) && loaded.warnings.iter().any(|w| w.remedy.contains("--zammad-url-file")));
    let both = Overrides { zammad_url_file: Some(file.clone()), ..flags };
    assert!(here.load(&both, &[(PASSWORD, "pw")]).unwrap_err().to_string().contains("url_file"));
}

#[test]
fn py_zammad_ctis_names_are_heard_and_are_weaker_than_ours() {
    let here = Here::new();
    here.write("config.toml", "[[zammad]]\nurl = \"https://file.test/api/v1/cti/tok\"\n");
    let theirs = [("ZammadCTI_URL", "https://py.test/api/v1/cti/tok"), (PASSWORD, "pw")];
    assert_eq!(here.env(&theirs).config.zammads[0].url.host(), "py.test");
    assert_eq!(here.env(&theirs).config.zammads[0].tls, Tls::System);

    // The README's spelling, and the one that the package reads.
    let capitals = ("ZAMMADCTI_URL", "https://capitals.test/api/v1/cti/tok");
    assert_eq!(here.env(&[capitals, theirs[1]]).config.zammads[0].url.host(), "capitals.test");
    assert_eq!(here.env(&[capitals, theirs[0], theirs[1]]).config.zammads[0].url.host(), "py.test");
    let unchecked = here.env(&[capitals, theirs[1], ("ZAMMADCTI_VERIFY_SSL", "false")]);
    assert_eq!(unchecked.config.zammads[0].tls, Tls::AcceptAnything);
    assert!(!unchecked.warnings.iter().any(|w| w.to_string().contains("did you mean")));

    let both = [theirs[0], theirs[1], (URL, "https://ours.test/api/v1/cti/tok")];
    assert_eq!(here.env(&both).config.zammads[0].url.host(), "ours.test");

    for (text, verified) in [
        ("0", false),
        ("false", false),
        ("False", false),
        ("NO", false),
        ("off", false),
        ("1", true),
        ("true", true),
        ("Yes", true),
        ("on", true),
        ("", true),
    ] {
        let variables = [theirs[0], theirs[1], ("ZammadCTI_VERIFY_SSL", text)];
        let expected = if verified { Tls::System } else { Tls::AcceptAnything };
        assert_eq!(here.env(&variables).config.zammads[0].tls, expected, "{text:?}");
        let ours = [variables[0], variables[1], variables[2], (VERIFY, "yes")];
        assert_eq!(here.env(&ours).config.zammads[0].tls, Tls::System, "{text:?}");
    }
    let error = here.try_env(&[theirs[0], theirs[1], ("ZammadCTI_VERIFY_SSL", "maybe")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable ZammadCTI_VERIFY_SSL: zammad[0].tls: \"maybe\" says neither yes nor no; set it to \
         true or to false"
    );
}

#[test]
fn systemd_credentials_are_used_when_nothing_stronger_names_them() {
    let here = Here::new();
    let credentials = here.folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    here.write("credentials/zammad-url", "https://cred.test/api/v1/cti/tok\n");
    here.write("credentials/freeswitch-password", "cred-pw\n");
    let folder = ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());

    let config = here.env(&[folder]).config;
    assert_eq!(config.zammads[0].url.expose(), "https://cred.test/api/v1/cti/tok");
    assert_eq!(config.switches[0].password.expose(), "cred-pw");

    here.write("config.toml", "[[switch]]\npassword = \"file-pw\"\n");
    let config = here.env(&[folder, (URL, "https://env.test/api/v1/cti/tok")]).config;
    assert_eq!(config.zammads[0].url.host(), "env.test");
    assert_eq!(config.switches[0].password.expose(), "file-pw");

    // Read as a file that anybody may read would be, but never warned of: the folder itself is closed.
    let mode = fs::Permissions::from_mode(0o444);
    fs::set_permissions(credentials.join("zammad-url"), mode).unwrap();
    assert_eq!(warned(&here.env(&[folder])), ["country"]);
}

#[test]
fn the_unit_and_the_configuration_agree() {
    let unit = include_str!("../systemd/freeswitch-zammad.service");
    let values = |key: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    };
    let here = Here::new();
    let config = here.env(&[(URL, "https://z.test/api/v1/cti/t"), (PASSWORD, "pw")]).config;
    assert_eq!(values("StateDirectory").len(), 1);
    assert_eq!(config.state_dir, Path::new("/var/lib").join(values("StateDirectory")[0]));
    assert_eq!(values("RestartPreventExitStatus"), ["78"]);

    // Each credential that the unit loads is one that is read: without any of them something is missing.
    let names = values("LoadCredential");
    assert_eq!(names.len(), 2);
    let folder = ("CREDENTIALS_DIRECTORY", here.folder.path().to_str().unwrap());
    for (loaded, name) in names.iter().enumerate() {
        assert_eq!(here.try_env(&[folder]).unwrap_err().faults.len(), names.len() - loaded);
        here.write(name, "https://z.test/api/v1/cti/t");
    }
    here.env(&[folder]);
}

#[test]
fn a_foreign_variable_that_is_not_unicode_is_no_fault() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let environment = Environment::from_os([
        (os(b"LS_COLOURS"), os(b"\xff")),
        (os(URL.as_bytes()), os(b"https://z.test/api/v1/cti/t")),
        (os(PASSWORD.as_bytes()), os(b"pw")),
    ]);
    let absent = Here::new().folder.path().join("config.toml");
    assert!(Config::load(&Overrides::default(), &environment, &absent).is_ok());
}

#[test]
fn relative_paths_are_taken_from_the_files_folder() {
    let here = Here::new();
    here.write("url-b", "https://b.test/api/v1/cti/tok");
    here.write("config.toml", "[[zammad]]\nurl_file = \"url-b\"\n");
    assert_eq!(here.env(&[(PASSWORD, "pw")]).config.zammads[0].url.host(), "b.test");
}

#[test]
fn systemds_state_directory_is_the_default_and_the_file_is_stronger() {
    let here = Here::new();
    let variables =
        [(URL, "https://z.test/api/v1/cti/t"), (PASSWORD, "pw"), ("STATE_DIRECTORY", "/s/a:/s/b")];
    assert_eq!(here.env(&variables).config.state_dir, Path::new("/s/a"));
    here.write("config.toml", "state_dir = \"/file\"\n");
    assert_eq!(here.env(&variables).config.state_dir, Path::new("/file"));
}

#[test]
fn a_file_that_is_named_must_exist_and_the_default_one_need_not() {
    let here = Here::new();
    let secrets = [(URL, "https://z.test/api/v1/cti/t"), (PASSWORD, "pw")];
    assert!(here.try_env(&secrets).is_ok());

    let absent = here.folder.path().join("absent.toml");
    let flags = Overrides { config: Some(absent.clone()), ..Overrides::default() };
    let error = here.load(&flags, &secrets).unwrap_err();
    assert_eq!(error.faults.len(), 1);
    assert_eq!(error.faults[0].origin, Origin::Flag("--config"));
    assert!(error.to_string().contains("absent.toml cannot be read"), "{error}");

    let named = ("FREESWITCH_ZAMMAD_CONFIG", absent.to_str().unwrap());
    let error = here.try_env(&[secrets[0], secrets[1], named]).unwrap_err();
    assert_eq!(error.faults[0].origin, Origin::Environment(named.0.into()));

    let present = here.write("present.toml", "country = \"IT\"\n");
    let flags = Overrides { config: Some(present), ..Overrides::default() };
    let config = here.load(&flags, &[secrets[0], secrets[1], named]).unwrap().config;
    assert_eq!(config.country.to_string(), "IT");

    // A default file that is there and cannot be read is not passed over.
    let default = here.folder.path().join("config.toml");
    fs::create_dir(&default).unwrap();
    assert!(here.try_env(&secrets).unwrap_err().to_string().contains("cannot be read"));
    for leads_to in [absent, default.clone()] {
        let _ = fs::remove_dir(&default).or_else(|_| fs::remove_file(&default));
        std::os::unix::fs::symlink(&leads_to, &default).unwrap();
        let error = here.try_env(&secrets).expect_err("a link to nowhere, then to itself");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
    // Not "does not exist", but "cannot be known to": its folder is a file.
    let below_a_file = here.write("file", "").join("config.toml");
    let environment: Environment = secrets.into_iter().collect();
    assert!(Config::load(&Overrides::default(), &environment, &below_a_file).is_err());
}

#[test]
fn several_switches_and_zammads_are_tied_by_name() {
    let here = Here::new();
    here.write("config.toml", SEVERAL);
    let config = here.env(&[]).config;
    let ties: Vec<(&str, &str)> = config
        .switches
        .iter()
        .map(|switch| (switch.name.as_str(), config.zammad_of(switch).url.host()))
        .collect();
    assert_eq!(ties, [("berlin", "a.test"), ("wien", "b.test")]);
    assert_eq!(config.zammads[1].timeout.as_secs(), 20);
}

#[test]
fn a_flag_or_a_variable_does_not_guess_which_of_several_is_meant() {
    let here = Here::new();
    here.write("config.toml", SEVERAL);
    let flags =
        Overrides { freeswitch: Some("h:1".into()), zammad_verify_ssl: Some(false), ..Overrides::default() };
    let error = here.load(&flags, &[(PASSWORD, "s3cret"), ("ZammadCTI_URL", "x")]).unwrap_err();
    let origins: Vec<&Origin> = error.faults.iter().map(|fault| &fault.origin).collect();
    assert_eq!(
        origins,
        [
            &Origin::Environment(PASSWORD.into()),
            &Origin::Environment("ZammadCTI_URL".into()),
            &Origin::Flag("--freeswitch"),
            &Origin::Flag("--zammad-verify-ssl"),
        ]
    );
    assert!(error.faults.iter().all(|fault| fault.what.ends_with("the file has 2")), "{error}");
}

#[test]
fn a_misspelt_variable_is_pointed_out() {
    let here = Here::new();
    let loaded = here.env(&[
        (URL, "https://z.test/api/v1/cti/t"),
        (PASSWORD, "pw"),
        ("FREESWITCH_ZAMMAD_STATEDIR", "/x"),
        ("FREESWITCH_ZAMMAD_SOMETHING_ELSE_ENTIRELY", "1"),
    ]);
    let texts: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
    assert!(
        texts.contains(
            &"environment variable FREESWITCH_ZAMMAD_STATEDIR: is not read; did you mean \
              FREESWITCH_ZAMMAD_STATE_DIR?"
                .to_owned()
        ),
        "{texts:?}"
    );
}

const URL: &str = "FREESWITCH_ZAMMAD_ZAMMAD_URL";
const URL_FILE: &str = "FREESWITCH_ZAMMAD_ZAMMAD_URL_FILE";
const VERIFY: &str = "FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL";
const PASSWORD: &str = "FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD";
const PASSWORD_FILE: &str = "FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD_FILE";

const SEVERAL: &str = r#"
    country = "DE"
    [[switch]]
    name = "berlin"
    address = "10.0.0.1:8021"
    password = "pw-1"
    [[switch]]
    name = "wien"
    address = "10.0.0.2:8021"
    password = "pw-2"
    zammad = "b"
    [[zammad]]
    name = "a"
    url = "https://a.test/api/v1/cti/tok"
    [[zammad]]
    name = "b"
    url = "https://b.test/api/v1/cti/tok"
    timeout_s = 20
"#;

/// A folder of its own, in which `config.toml` is the default file.
struct Here {
    folder: tempfile::TempDir,
}

impl Here {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn env(&self, variables: &[(&str, &str)]) -> Loaded {
        self.try_env(variables).unwrap_or_else(|e| panic!("{e}"))
    }

    fn try_env(&self, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        self.load(&Overrides::default(), variables)
    }

    fn load(&self, flags: &Overrides, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let environment: Environment = variables.iter().copied().collect();
        Config::load(flags, &environment, &self.folder.path().join("config.toml"))
    }
}

fn warned(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|warning| warning.key.as_str()).collect()
}
