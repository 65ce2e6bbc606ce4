//! The systemd unit, as far as a program that is started without it needs it.

/// What the unit sets for the allocator, name and value: without it glibc keeps for each thread what that once freed.
pub(crate) fn malloc<'a>() -> impl Iterator<Item = (&'a str, &'a str)> {
    let unit = include_str!("../../systemd/freeswitch-zammad.service");
    let set = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    set.filter(|(name, _)| name.starts_with("MALLOC_"))
}
