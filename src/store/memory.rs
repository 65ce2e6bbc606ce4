//! What has been freed, given back to the system.

/// Gives back what glibc holds that is free, wherever it lies; by itself it gives back only what lies at an end. Takes
/// some milliseconds. With another C library it does nothing.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "no safe way leads to it")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes no pointer, and any thread may call it at any time.
        let _whether_any = unsafe { malloc_trim(0) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::process::Command;
    use std::{env, fs};

    /// Set in the process that has its memory to itself.
    const ALONE: &str = "MEMORY_TEST_ALONE";

    /// In a process of its own: what other tests hold, and give back, cannot be told from what this one does.
    #[test]
    fn what_is_free_between_what_is_not_is_given_back() {
        let name = "store::memory::tests::what_is_free_between_what_is_not_is_given_back";
        if env::var_os(ALONE).is_none() {
            let mut again = Command::new(env::current_exe().unwrap());
            let run = again.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let told = String::from_utf8_lossy(&run.stdout);
            let why = String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success() && told.contains(" 1 passed"), "{told}{why}");
            return;
        }
        let resident_kb = || -> u64 {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let each = |_| (Box::new([1u8; 64]), vec![1u8; 16 * 1024]);
        let (held, freed): (Vec<_>, Vec<_>) = (0..4096).map(each).unzip();
        drop(freed);
        let before = resident_kb();
        super::give_back();
        let after = resident_kb();
        drop(held);
        // 48 MB in whole pages is free.
        assert!(after + 40 * 1024 < before, "{before} kB before, {after} kB after");
    }
}
