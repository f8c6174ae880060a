//! Images: a disk with a root file system, a kernel, and how they are started.
//!
//! An image is built from a folder or an archive of files of a stranger
//! ([`build`]): they become a [`tree`], and the tree a disk ([`ext4`]). It has
//! a folder in the [`place`] of the user's images. Its disk is never written
//! to: what a guest writes goes into an overlay. docs/images.md shows it from
//! outside.

mod shown;

mod tree;
pub use tree::{Content, Kind, Meta, Node, Refusal, Tree};

mod contents;
pub use contents::{ContentError, Contents};

pub mod archive;

mod packed;
pub use packed::unpacked;

pub mod oci;

mod files;

pub mod ext4;

mod agent;

mod recipe;
pub use recipe::Recipe;

mod error;
pub use error::ImageError;

pub mod place;
pub use place::Stored;

mod build;
pub use build::Source;

mod warm;

pub mod verbs;
