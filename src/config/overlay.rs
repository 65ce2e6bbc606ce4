//! Lays the flags over the environment over the file over systemd's credentials.
//!
//! Flags and environment speak of *the* switch and *the* Zammad. Where the file has several, they would have
//! to guess, so that is a fault. Judges nothing else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::document::{Given, nearest};
use super::fault::{Origin, Report, Unfit};
use super::raw::{self, RawConfig, RawSecret, RawSwitch, RawZammad};
use super::secret::Secret;

/// What the command line says; the strongest layer. Nothing here comes from the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`: the file to read instead of the default one. It must exist.
    pub config: Option<PathBuf>,
    /// `--zammad-url`
    pub zammad_url: Option<Secret>,
    /// `--zammad-url-file`
    pub zammad_url_file: Option<PathBuf>,
    /// `--zammad-verify-ssl`: false is `tls = "insecure-accept-any-certificate"`.
    pub zammad_verify_ssl: Option<bool>,
    /// `--freeswitch`: `HOST:PORT` of the event socket.
    pub freeswitch: Option<String>,
    /// `--freeswitch-user`: `USER@DOMAIN`.
    pub freeswitch_user: Option<String>,
    /// `--freeswitch-password`
    pub freeswitch_password: Option<Secret>,
    /// `--freeswitch-password-file`
    pub freeswitch_password_file: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--country`
    pub country: Option<String>,
}

/// Every variable that is read, ours first. The rest is set by py-zammad-cti's users and by systemd.
pub const VARIABLES: [&str; 16] = [
    "FREESWITCH_ZAMMAD_CONFIG",
    "FREESWITCH_ZAMMAD_ZAMMAD_URL",
    "FREESWITCH_ZAMMAD_ZAMMAD_URL_FILE",
    "FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL",
    "FREESWITCH_ZAMMAD_FREESWITCH",
    "FREESWITCH_ZAMMAD_FREESWITCH_USER",
    "FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD",
    "FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD_FILE",
    "FREESWITCH_ZAMMAD_STATE_DIR",
    "FREESWITCH_ZAMMAD_COUNTRY",
    "ZammadCTI_URL",
    "ZammadCTI_VERIFY_SSL",
    "ZAMMADCTI_URL",
    "ZAMMADCTI_VERIFY_SSL",
    "CREDENTIALS_DIRECTORY",
    "STATE_DIRECTORY",
];

/// The environment, handed over as a value. A variable that is set to nothing counts as not set. Debug shows
/// no values.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, Secret>);

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let known = |(name, value): (N, V)| (name.into(), Secret::new(value));
        Self(variables.into_iter().map(known).filter(|(_, value)| !value.expose().is_empty()).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// From `std::env::vars_os()`. What is not Unicode arrives with replacement characters and then fails its
    /// check, where `std::env::vars()` would panic over a variable that is none of ours.
    #[must_use]
    pub fn from_os(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |s: OsString| s.to_string_lossy().into_owned();
        variables.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn secret(&self, name: &str) -> Option<Given<Secret>> {
        let value = self.0.get(name)?.clone();
        Some(Given { value, origin: Origin::Environment(name.to_owned()) })
    }

    fn text(&self, name: &str) -> Option<Given<String>> {
        self.secret(name).map(|given| given.map(|secret| secret.expose().to_owned()))
    }

    fn path(&self, name: &str) -> Option<Given<PathBuf>> {
        self.text(name).map(|given| given.map(PathBuf::from))
    }
}

impl<T> Given<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given { value: change(self.value), origin: self.origin }
    }
}

/// Reads the file, if there is one, and lays everything stronger over it. `None`, with faults, if there is a
/// file that cannot be read.
pub(super) fn read_all(
    overrides: &Overrides,
    environment: &Environment,
    default_file: &Path,
    report: &mut Report,
) -> Option<RawConfig> {
    warn_of_misspelt_variables(environment, report);
    let named = flag("--config", overrides.config.clone()).or(environment.path("FREESWITCH_ZAMMAD_CONFIG"));
    let mut raw = read_file(named, default_file, report)?;
    lay_over(&mut raw, overrides, environment, report);
    add_credentials(&mut raw, environment);
    Some(raw)
}

/// As [`read_all`], of a text that is at hand. Looks for no credentials.
pub(super) fn judge(
    text: &str,
    path: &Path,
    overrides: &Overrides,
    environment: &Environment,
    report: &mut Report,
) -> Option<RawConfig> {
    warn_of_misspelt_variables(environment, report);
    let mut raw = raw::read(path, text, report)?;
    lay_over(&mut raw, overrides, environment, report);
    Some(raw)
}

fn lay_over(raw: &mut RawConfig, overrides: &Overrides, environment: &Environment, report: &mut Report) {
    if let Some(dir) = flag("--state-dir", overrides.state_dir.clone())
        .or(environment.path("FREESWITCH_ZAMMAD_STATE_DIR"))
        .or(raw.state_dir.take())
        .or(systemd_state_dir(environment))
    {
        raw.state_dir = Some(dir);
    }
    if let Some(country) =
        flag("--country", overrides.country.clone()).or(environment.text("FREESWITCH_ZAMMAD_COUNTRY"))
    {
        raw.country = Some(country);
    }

    let switch = SwitchOverlay::gather(overrides, environment);
    if raw.switches.is_empty() {
        raw.switches.push(RawSwitch::implied());
    }
    switch.lay_over(&mut raw.switches, report);

    let zammad = ZammadOverlay::gather(overrides, environment, report);
    if raw.zammads.is_empty() {
        raw.zammads.push(RawZammad::implied());
    }
    zammad.lay_over(&mut raw.zammads, report);
}

/// The most that is read of a file that holds one secret.
pub(super) const SECRET_BYTES_MAX: u64 = 4 * 1024;
/// The most that is read of the configuration or of a file of certificates: the system's whole list has 250
/// kB.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file's text, and whether everybody on the machine may read it.
pub(super) struct ReadText {
    pub(super) text: String,
    pub(super) world_readable: bool,
}

/// Reads at most `bytes_max` bytes of `path` as UTF-8. The error says what and what to do, without the
/// contents; it calls the file `shown`, because a path that leads nowhere can be a secret in the wrong place.
pub(super) fn read_text(path: &Path, shown: impl Display, bytes_max: u64) -> Result<ReadText, Unfit> {
    let fail = |e: &io::Error| {
        let remedy = match e.kind() {
            io::ErrorKind::NotFound => "write the path of a file that exists, or create it",
            io::ErrorKind::PermissionDenied => {
                "make it readable for the user the daemon runs as; \
                 under systemd, hand it over with LoadCredential="
            }
            _ => "write the path of a readable file",
        };
        Unfit::new(format!("{shown} cannot be read: {e}"), remedy)
    };
    let file = File::open(path).map_err(|e| fail(&e))?;
    let mode = file.metadata().map_err(|e| fail(&e))?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    if bytes.len() as u64 > bytes_max {
        let what = format!("{shown} holds more than {bytes_max} bytes");
        return Err(Unfit::new(what, "write the path of the right file"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Unfit::new(format!("{shown} is not UTF-8"), "save the file as UTF-8 text"))?;
    Ok(ReadText { text, world_readable: mode & 0o004 != 0 })
}

/// What makes a file with a secret in it safe.
pub(super) fn chmod_remedy(path: &Path) -> String {
    let path = path.display();
    format!(
        "chmod 600 {path}, or 640 with the daemon's group; \
         under systemd, hand secrets over with LoadCredential="
    )
}

fn read_file(named: Option<Given<PathBuf>>, default_file: &Path, report: &mut Report) -> Option<RawConfig> {
    let (path, origin, must_exist) = match named {
        Some(given) => (given.value, given.origin, true),
        None => (default_file.to_owned(), Origin::File { path: default_file.to_owned(), line: None }, false),
    };
    // Asked of the link itself: one that leads nowhere was meant to lead somewhere.
    if !must_exist && fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Some(RawConfig::default());
    }
    let read = match read_text(&path, path.display(), FILE_BYTES_MAX) {
        Ok(read) => read,
        Err(unfit) => {
            report.unfit(&origin, "", unfit);
            return None;
        }
    };
    let raw = raw::read(&path, &read.text, report)?;
    let passwords =
        raw.switches.iter().filter_map(|s| s.password.text.as_ref().map(|_| s.place.key("password")));
    let urls = raw.zammads.iter().filter_map(|z| z.url.text.as_ref().map(|_| z.place.key("url")));
    if read.world_readable
        && let Some(key) = passwords.chain(urls).next()
    {
        let what = "a secret stands in a file that every user of this machine can read";
        report.warn(&Origin::File { path: path.clone(), line: None }, key, what, chmod_remedy(&path));
    }
    Some(raw)
}

/// What flags and environment say of the switch, the stronger already chosen.
struct SwitchOverlay {
    address: Option<Given<String>>,
    user: Option<Given<String>>,
    password: RawSecret,
}

impl SwitchOverlay {
    fn gather(overrides: &Overrides, environment: &Environment) -> Self {
        let by_flag = RawSecret {
            text: flag("--freeswitch-password", overrides.freeswitch_password.clone()),
            file: flag("--freeswitch-password-file", overrides.freeswitch_password_file.clone()),
        };
        let by_variable = RawSecret {
            text: environment.secret("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD"),
            file: environment.path("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD_FILE"),
        };
        Self {
            address: flag("--freeswitch", overrides.freeswitch.clone())
                .or(environment.text("FREESWITCH_ZAMMAD_FREESWITCH")),
            user: flag("--freeswitch-user", overrides.freeswitch_user.clone())
                .or(environment.text("FREESWITCH_ZAMMAD_FREESWITCH_USER")),
            password: if by_flag.is_given() { by_flag } else { by_variable },
        }
    }

    fn lay_over(self, switches: &mut [RawSwitch], report: &mut Report) {
        let Self { address, user, password } = self;
        if let [switch] = switches {
            switch.address = address.or(switch.address.take());
            switch.user = user.or(switch.user.take());
            if password.is_given() {
                switch.password = password;
            }
            if let Some(Given { origin: origin @ Origin::Flag(_), .. }) = &switch.password.text {
                let remedy = "use --freeswitch-password-file";
                report.warn(origin, switch.place.key("password"), SHOWN_BY_PS, remedy);
            }
            return;
        }
        let origins = [
            address.map(|g| g.origin),
            user.map(|g| g.origin),
            password.text.map(|g| g.origin),
            password.file.map(|g| g.origin),
        ];
        refuse_to_guess(origins, "switch", switches.len(), report);
    }
}

/// What flags and environment say of the Zammad, the stronger already chosen.
struct ZammadOverlay {
    url: RawSecret,
    verify: Option<Given<bool>>,
}

impl ZammadOverlay {
    fn gather(overrides: &Overrides, environment: &Environment, report: &mut Report) -> Self {
        let verify = |name| environment.text(name).and_then(|text| read_bool(&text, report));
        let [ours, theirs, capitals] =
            ["FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL", "ZammadCTI_VERIFY_SSL", "ZAMMADCTI_VERIFY_SSL"]
                .map(verify);
        let by_flag = RawSecret {
            text: flag("--zammad-url", overrides.zammad_url.clone()),
            file: flag("--zammad-url-file", overrides.zammad_url_file.clone()),
        };
        let by_variable = RawSecret {
            text: environment.secret("FREESWITCH_ZAMMAD_ZAMMAD_URL"),
            file: environment.path("FREESWITCH_ZAMMAD_ZAMMAD_URL_FILE"),
        };
        // Its README writes the one, the package itself reads the other.
        let by_them = environment.secret("ZammadCTI_URL").or(environment.secret("ZAMMADCTI_URL"));
        let by_their_variable = RawSecret { text: by_them, file: None };
        let layers = [by_flag, by_variable, by_their_variable];
        Self {
            url: layers.into_iter().find(RawSecret::is_given).unwrap_or_default(),
            verify: flag("--zammad-verify-ssl", overrides.zammad_verify_ssl).or(ours).or(theirs).or(capitals),
        }
    }

    fn lay_over(self, zammads: &mut [RawZammad], report: &mut Report) {
        let Self { url, verify } = self;
        if let [zammad] = zammads {
            if url.is_given() {
                zammad.url = url;
            }
            if let Some(Given { origin: origin @ Origin::Flag(_), .. }) = &zammad.url.text {
                report.warn(origin, zammad.place.key("url"), SHOWN_BY_PS, "use --zammad-url-file");
            }
            if let Some(verify) = verify {
                let word = if verify.value { "verify" } else { "insecure-accept-any-certificate" };
                zammad.tls = Some(Given { value: word.to_owned(), origin: verify.origin });
            }
            return;
        }
        let origins = [url.text.map(|g| g.origin), url.file.map(|g| g.origin), verify.map(|g| g.origin)];
        refuse_to_guess(origins, "zammad", zammads.len(), report);
    }
}

const SHOWN_BY_PS: &str = "a secret on the command line is seen by every user of this machine who runs ps";

fn flag<T>(name: &'static str, value: Option<T>) -> Option<Given<T>> {
    value.map(|value| Given { value, origin: Origin::Flag(name) })
}

fn refuse_to_guess<const N: usize>(
    origins: [Option<Origin>; N],
    table: &str,
    count: usize,
    report: &mut Report,
) {
    for origin in origins.into_iter().flatten() {
        let what = format!("does not say which {table} it is meant for: the file has {count}");
        report.fault(
            &origin,
            table,
            what,
            format!("set it in its [[{table}]] of the file, and unset it here"),
        );
    }
}

fn read_bool(text: &Given<String>, report: &mut Report) -> Option<Given<bool>> {
    let value = match text.value.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => true,
        "0" | "false" | "no" | "off" => false,
        _ => {
            let what = format!("{:?} says neither yes nor no", text.value);
            report.fault(&text.origin, "zammad[0].tls", what, "set it to true or to false");
            return None;
        }
    };
    Some(Given { value, origin: text.origin.clone() })
}

/// systemd lists one directory per name in `StateDirectory=`, with colons; the first is ours.
fn systemd_state_dir(environment: &Environment) -> Option<Given<PathBuf>> {
    let list = environment.text("STATE_DIRECTORY")?;
    Some(list.map(|list| PathBuf::from(list.split(':').next().unwrap_or_default())))
}

fn add_credentials(raw: &mut RawConfig, environment: &Environment) {
    let Some(folder) = environment.path("CREDENTIALS_DIRECTORY") else { return };
    let credential = |name: &str| {
        let path = folder.value.join(name);
        let given = Given { value: path.clone(), origin: Origin::Credential(path.clone()) };
        path.exists().then_some(RawSecret { text: None, file: Some(given) })
    };
    if let [switch] = &mut raw.switches[..]
        && !switch.password.is_given()
    {
        switch.password = credential("freeswitch-password").unwrap_or_default();
    }
    if let [zammad] = &mut raw.zammads[..]
        && !zammad.url.is_given()
    {
        zammad.url = credential("zammad-url").unwrap_or_default();
    }
}

/// Nobody is told of a variable that does nothing, so a name that is nearly one of ours is pointed out.
fn warn_of_misspelt_variables(environment: &Environment, report: &mut Report) {
    for name in environment.0.keys() {
        let ours = name.starts_with("FREESWITCH_ZAMMAD_") || name.to_lowercase().starts_with("zammadcti_");
        if ours
            && !VARIABLES.contains(&name.as_str())
            && let Some(near) = nearest(name, &VARIABLES)
        {
            let origin = Origin::Environment(name.clone());
            report.warn(&origin, "", "is not read", format!("did you mean {near}?"));
        }
    }
}
