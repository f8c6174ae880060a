//! Tests of the tree: names, links, layers.

use super::*;

fn file(number: u32) -> Kind {
    Kind::File(Content { number, bytes: 1 })
}

fn put(tree: &mut Tree, path: &str, kind: Kind) -> Result<Id, Refusal> {
    tree.put(path.as_bytes(), Meta::root(0o644), kind)
}

/// All paths of the tree, sorted.
fn paths(tree: &Tree) -> Vec<String> {
    fn below(tree: &Tree, id: Id, path: &str, all: &mut Vec<String>) {
        if let Kind::Folder(files) = &tree.node(id).kind {
            for (name, id) in files {
                let name = String::from_utf8_lossy(name);
                let path = format!("{path}/{name}");
                all.push(path.clone());
                below(tree, *id, &path, all);
            }
        }
    }
    let mut all = Vec::new();
    below(tree, ROOT, "", &mut all);
    all
}

#[test]
fn names_that_lead_out_are_refused() {
    let mut tree = Tree::default();
    for (path, why) in [
        ("../etc/passwd", Refusal::Out),
        ("a/../../b", Refusal::Out),
        ("a\nrm /b", Refusal::Break),
        ("a\rb", Refusal::Break),
        ("a\0b", Refusal::Break),
        ("", Refusal::Empty),
        ("/./", Refusal::Empty),
        (&"x".repeat(256), Refusal::Long),
        (&"x/".repeat(1901), Refusal::Long),
        (&"x/".repeat(250), Refusal::Deep),
    ] {
        assert_eq!(put(&mut tree, path, file(1)), Err(why), "{path:?}");
    }
    put(&mut tree, "//etc/./passwd", file(1)).unwrap();
    assert!(tree.at(b"etc/passwd").is_some());
}

#[test]
fn symbolic_links_are_followed_inside_the_tree() {
    let mut tree = Tree::default();
    for (path, target) in [
        ("lib", "usr/lib"),
        ("out", "../../../../host"),
        ("top", "/"),
        ("round", "again"),
        ("again", "round"),
    ] {
        put(&mut tree, path, Kind::Link(target.into())).unwrap();
    }
    put(&mut tree, "lib/libc.so", file(1)).unwrap();
    assert!(tree.at(b"usr/lib/libc.so").is_some());
    put(&mut tree, "out/file", file(2)).unwrap();
    assert!(tree.at(b"host/file").is_some());
    put(&mut tree, "top/root-file", file(3)).unwrap();
    assert!(tree.at(b"root-file").is_some());
    assert_eq!(put(&mut tree, "round/x", file(4)), Err(Refusal::Circle));
    // A file with the name of a link takes its place.
    put(&mut tree, "lib", file(5)).unwrap();
    assert_eq!(put(&mut tree, "lib/x", file(6)), Err(Refusal::NotInFolder));
    for target in ["", "a\nb", &"x".repeat(256), &"x/".repeat(3000)] {
        let link = Kind::Link(target.into());
        assert!(put(&mut tree, "link", link).is_err(), "{target:?}");
    }
}

#[test]
fn links_that_multiply_end() {
    let mut tree = Tree::default();
    put(&mut tree, "d", Kind::folder()).unwrap();
    let mut before = "d".to_owned();
    for level in 0..30 {
        let name = format!("l{level}");
        let target = format!("{before}/../{before}/../{before}");
        put(&mut tree, &name, Kind::Link(target.into())).unwrap();
        before = name;
    }
    let found = put(&mut tree, &format!("{before}/x"), file(1));
    assert_eq!(found, Err(Refusal::Circle));
}

#[test]
fn hard_links_are_more_names_of_one_file() {
    let mut tree = Tree::default();
    put(&mut tree, "a/one", file(1)).unwrap();
    tree.link(b"b/two", b"a/one").unwrap();
    assert_eq!(tree.at(b"a/one"), tree.at(b"b/two"));
    // Another file in place of a name leaves the other name as it is.
    put(&mut tree, "a/one", file(2)).unwrap();
    assert_ne!(tree.at(b"a/one"), tree.at(b"b/two"));
    for target in ["absent", "a", "../x"] {
        assert!(tree.link(b"c", target.as_bytes()).is_err(), "{target}");
    }
}

#[test]
fn whiteouts_remove_what_earlier_layers_have() {
    let mut tree = Tree::default();
    for path in ["etc/old", "etc/kept", "var/a", "var/b/c", "usr/x"] {
        put(&mut tree, path, file(1)).unwrap();
    }
    tree.begin_layer();
    // Their order in a layer does not count.
    put(&mut tree, "var/b/new", file(2)).unwrap();
    tree.white_out_all(b"var").unwrap();
    put(&mut tree, "var/after", file(2)).unwrap();
    tree.white_out(b"etc/old").unwrap();
    tree.white_out(b"usr").unwrap();
    tree.white_out(b"absent/file").unwrap();
    put(&mut tree, "etc/new", file(2)).unwrap();
    tree.white_out(b"etc/new").unwrap();
    assert_eq!(
        paths(&tree),
        [
            "/etc",
            "/etc/kept",
            "/etc/new",
            "/var",
            "/var/after",
            "/var/b",
            "/var/b/new",
        ]
    );
}

#[test]
fn a_folder_that_comes_again_keeps_its_files() {
    let mut tree = Tree::default();
    put(&mut tree, "d/file", file(1)).unwrap();
    let meta = Meta {
        mode: 0o1777,
        user: 7,
        group: 8,
        time: 9,
    };
    let id = tree.put(b"d", meta, Kind::folder()).unwrap();
    assert_eq!(tree.node(id).meta, meta);
    assert!(tree.at(b"d/file").is_some());
    put(&mut tree, "d", file(2)).unwrap();
    assert_eq!(paths(&tree), ["/d"]);
}
