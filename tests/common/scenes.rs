//! Every recording, and whether Zammad's caller log says of it what a person watching would.

#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::BTreeSet;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::zammad::{Row, Seen};
use serde_json::Value;

use crate::common;
use crate::road::{Road, differences, differences_but, renamed, rows_of};

/// A recording under its own legs, and what a person watching would say of it.
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) recording: Recording,
    pub(crate) want: Value,
}

pub(crate) fn scenes(road: &Road, folder: &str) -> Vec<Scene> {
    let mut expected = common::expected(folder);
    let scene = |(name, bytes): (String, Vec<u8>)| {
        let want = expected.remove(&name)?;
        Some(Scene { recording: renamed(&road.switch, &bytes, &name), name, want })
    };
    let scenes: Vec<Scene> = common::recordings(folder).into_iter().filter_map(scene).collect();
    assert!(expected.is_empty(), "no recording of {:?}", expected.keys());
    scenes
}

pub(crate) fn calls(scenes: &[Scene]) -> usize {
    scenes.iter().map(|s| s.want.as_array().unwrap().len()).sum()
}

pub(crate) fn compare(road: &Road, scenes: &[Scene]) {
    compare_by(road, scenes, &BTreeSet::new(), differences);
}

/// Of the calls that are `unsure` no more is known than that there is a row of each. What a node has told and could not
/// record another tells again.
pub(crate) fn compare_but(road: &Road, scenes: &[Scene], unsure: &BTreeSet<String>) {
    compare_by(road, scenes, unsure, |rows, seen, want| differences_but(rows, seen, want, is_told_again));
}

/// Whether all was told, from its beginning to its end, with whatever repetitions from somewhere on.
fn is_told_again(right: &[String], told: &[String]) -> bool {
    let mut reached = BTreeSet::from([0]);
    for answer in told {
        let goes_on =
            |at: usize| (0..=at).filter(|from| right.get(*from) == Some(answer)).map(|from| from + 1);
        reached = reached.into_iter().flat_map(goes_on).collect();
    }
    reached.contains(&right.len())
}

fn compare_by(
    road: &Road,
    scenes: &[Scene],
    unsure: &BTreeSet<String>,
    differences: fn(&[&Row], &[Seen], &Value) -> Vec<String>,
) {
    let (rows, seen) = (road.zammad.log(), road.zammad.requests());
    assert_eq!(rows.len(), calls(scenes), "a row for each call");
    let mut wrong = Vec::new();
    for scene in scenes {
        let rows = rows_of(&rows, &scene.recording);
        if rows.iter().all(|row| !unsure.contains(&row.call_id)) {
            let differences = differences(&rows, &seen, &scene.want);
            wrong.extend(differences.into_iter().map(|d| format!("{}: {d}", scene.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
