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
    use std::fs;

    #[test]
    fn what_is_free_between_what_is_not_is_given_back() {
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
        // 48 MB of whole pages, less what other tests take in the same moment.
        assert!(after + 32 * 1024 < before, "{before} kB before, {after} kB after");
    }
}
