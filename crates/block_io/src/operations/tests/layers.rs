//! Rebase and commit, ended at every step that they report: nothing is lost at any of them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::*;
use crate::qcow2::{BackingName, Qcow2Disk, Repair};

/// Two raw bases that differ, an image on the first that has data and zeroes of its own, and what its disk reads as.
struct Chain {
    directory: tempfile::TempDir,
    content: Vec<u8>,
}

const BYTES: usize = 12 << 20;

fn raw(name: &str) -> BackingName {
    BackingName { name: name.into(), format: "raw".into() }
}

fn no_break(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Chain {
    fn new() -> Self {
        let chain = Self { directory: directory(), content: Vec::new() };
        let mut one = vec![1; BYTES];
        one[1 << 20..3 << 20].fill(0);
        one[5 << 20..6 << 20].fill(5);
        let mut two = vec![1; BYTES];
        two[9 << 20..10 << 20].fill(0);
        std::fs::write(chain.path("one.raw"), &one).unwrap();
        std::fs::write(chain.path("two.raw"), two).unwrap();
        // An image gets data of its own by a rebase from a base that has it.
        let mut own = one.clone();
        own[70_000..300_000].fill(7);
        own[5 << 20..5 << 20 | 128 << 10].fill(0);
        std::fs::write(chain.path("own.raw"), &own).unwrap();
        let parameters =
            Qcow2Parameters { backing: Some(raw("own.raw")), ..Qcow2Parameters::new(BYTES as u64) };
        NewImage::Qcow2(parameters).create(&chain.path("top.qcow2")).unwrap();
        rebase(&chain.path("top.qcow2"), Some(&raw("one.raw")), &ImageAccess::default(), &mut no_break)
            .unwrap();
        std::fs::remove_file(chain.path("own.raw")).unwrap();
        Self { content: own, ..chain }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The disk reads as it did.
    #[track_caller]
    fn assert_whole(&self) {
        std::fs::write(self.path("expected"), &self.content).unwrap();
        let access = ImageAccess {
            file: RawOptions { read_only: true, ..RawOptions::default() },
            ..ImageAccess::default()
        };
        let open = |name: &str, format| OpenImage::open(&self.path(name), format, &access).unwrap();
        let (top, expected) = (open("top.qcow2", ImageFormat::Qcow2), open("expected", ImageFormat::Raw));
        let found = compare(&top, &expected, &mut no_break).unwrap();
        assert_eq!(found.first_difference, None);
        let report = Qcow2Disk::check(&self.path("top.qcow2"), Repair::Nothing).unwrap();
        assert_eq!((report.corruptions, report.leaked_clusters), (0, 0), "{report:?}");
    }

    fn backing(&self) -> Option<String> {
        ImageInfo::read(&self.path("top.qcow2"), None).unwrap().qcow2.unwrap().backing
    }
}

/// Does the work again and again, ended each time one step later, until it is done; looks at the result each time.
fn end_everywhere(
    mut work: impl FnMut(&Path, Progress<'_>) -> Result<(), OperationError>,
    mut look: impl FnMut(&Chain, bool),
) {
    for steps in 0.. {
        let chain = Chain::new();
        let mut left = steps;
        let result = work(&chain.path("top.qcow2"), &mut |_, _| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        chain.assert_whole();
        match result {
            Err(OperationError::Interrupted) => look(&chain, false),
            Err(error) => panic!("{error}"),
            Ok(()) => {
                look(&chain, true);
                assert!(steps > 3, "there was something to do");
                return;
            }
        }
    }
}

#[test]
fn a_rebase_that_ends_early_leaves_the_image_as_it_was() {
    for new in [Some(raw("two.raw")), None] {
        end_everywhere(
            |path, progress| rebase(path, new.as_ref(), &ImageAccess::default(), progress),
            |chain, done| {
                let expected =
                    if done { new.as_ref().map(|new| new.name.clone()) } else { Some("one.raw".into()) };
                assert_eq!(chain.backing(), expected);
            },
        );
    }
}

#[test]
fn a_commit_that_ends_early_leaves_the_disk_as_it_was() {
    end_everywhere(
        |path, progress| commit(path, None, AfterCommit::Emptied, None, &ImageAccess::default(), progress),
        |chain, done| {
            if done {
                assert!(std::fs::read(chain.path("one.raw")).unwrap() == chain.content);
            }
        },
    );
}

#[test]
fn the_map_of_a_chain_names_layers_and_their_files() {
    let chain = Chain::new();
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..RawOptions::default() },
        ..ImageAccess::default()
    };
    let top = OpenImage::open(&chain.path("top.qcow2"), ImageFormat::Qcow2, &access).unwrap();
    let mut entries = Vec::new();
    map(&top, 0..u64::MAX, &mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    let place = entries.iter().find(|entry| entry.status.layer == 0 && entry.status.data).unwrap();
    assert_eq!((place.start, place.bytes), (65536, 4 * 65536), "whole clusters");
    assert_eq!(top.file(0), Some(chain.path("top.qcow2").as_path()));
    assert_eq!(top.file(1), Some(chain.path("one.raw").as_path()));
    let zeroes = entries.iter().find(|entry| entry.start == 5 << 20).unwrap();
    assert!(zeroes.status.zero && zeroes.status.layer == 0 && zeroes.status.offset.is_none(), "{zeroes:?}");
    assert_eq!(entries.iter().map(|entry| entry.bytes).sum::<u64>(), BYTES as u64, "no gaps");
}
