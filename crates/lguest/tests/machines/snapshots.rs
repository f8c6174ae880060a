//! Snapshots, machines that go on from them, and clones.

use crate::place::Place;
use crate::support::later::LATER;
use crate::support::{PATIENCE, Scratch, built_in, run};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// More lines than a guest has buffers for.
const LINES: usize = 64;

/// Bytes of a disk, all but the first sector not zero.
fn disk(scratch: &Scratch, name: &str) -> String {
    let mut disk = vec![0; 0x1_0000];
    disk[512..].fill(0xAA);
    scratch.file(name, &disk).display().to_string()
}

/// All that a machine has printed.
fn printed(place: &Place, name: &str) -> String {
    place.done(&format!("logs {name}"))
}

/// A guest of each generation that has a kit, with each isolation, in the
/// middle of a program.
#[test]
fn a_guest_goes_on_where_it_stood() {
    let place = Place::new("goes-on");
    let scratch = Scratch::new("goes-on-files");
    let later = [LATER[0], LATER[4]].map(|later| {
        let path = later.of(&built_in(), &scratch);
        format!("--kernel {}", path.display())
    });
    let [first, second] = &later;
    let saved = scratch.path("saved");
    let saved = saved.display();
    for kernel in ["", first, second] {
        for isolation in ["guest", "user"] {
            let options = format!("{kernel} --isolation {isolation}");
            place.start_with("web", &options);
            place.done("send web --no-newline ec");
            place.wait_for("web", "lguest> ec");
            place.done(&format!("snapshot web {saved}"));
            place.done("kill web");
            place.done(&format!("restore {saved} --name web --detach"));
            place.type_in("web", "ho the rest");
            // The guest has the first half of the line.
            place.wait_for("web", "\nthe rest");
            place.type_in("web", "run primes 3000000");
            place.wait_for("web", "> run primes 3000000");
            place.done(&format!("snapshot web {saved}"));
            place.done("kill web");
            place.done(&format!("restore {saved} --name web --detach"));
            let said = place.wait_for("web", "lguest> ");
            assert!(said.contains("result 216816"), "{options}: {said}");
            place.done("kill web");
        }
    }
    assert!(place.is_empty());
}

/// Input that no buffer was free for is in the snapshot, and the restored guest
/// gets it without another key.
#[test]
fn what_was_typed_ahead_is_not_lost() {
    let place = Place::new("ahead");
    let scratch = Scratch::new("ahead-files");
    let saved = scratch.path("saved");
    let take = format!("snapshot web {}", saved.display());
    place.start("web");
    // It takes no buffer back while it is paused.
    place.done("pause web");
    let waiting = (0..LINES).find_map(|n| {
        place.type_in("web", &format!("echo typed ahead {n}"));
        place.done(&take);
        let text = std::fs::read(saved.join("manifest.json")).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (_, rest) = text.split_once("\"waiting\":[").unwrap();
        let (bytes, _) = rest.split_once(']').unwrap();
        let bytes = bytes.split(',').filter(|byte| !byte.is_empty());
        let bytes = bytes.map(|byte| byte.parse().unwrap()).collect();
        String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())
    });
    let waiting = waiting.unwrap();
    let (_, line) = waiting.trim_end().rsplit_once("echo ").unwrap();
    place.done("kill web");
    // Standard input is open, and nothing comes from it.
    let words = format!("restore {} --timeout 60s", saved.display());
    let mut command = place.command(&words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut restored = command.spawn().unwrap();
    let wanted = format!("\n{line}");
    let mut output = restored.stdout.take().unwrap();
    let mut said = String::new();
    let mut bytes = [0; 4096];
    while !said.contains(&wanted) {
        let n = output.read(&mut bytes).unwrap();
        assert!(n > 0, "{wanted:?} never came: {said}");
        said += &String::from_utf8_lossy(&bytes[..n]);
    }
    restored.kill().unwrap();
    restored.wait().unwrap();
    assert!(place.is_empty());
}

/// The guest does not see that a snapshot is taken.
#[test]
fn a_guest_that_is_written_down_goes_on_too() {
    let place = Place::new("written");
    let scratch = Scratch::new("written-files");
    let saved = scratch.path("saved");
    let saved = saved.display();
    place.start("web");
    place.type_in("web", "run primes 3000000");
    for _ in 0..5 {
        let said = place.done(&format!("snapshot web {saved}"));
        assert!(said.contains("MiB of memory; the guest stood"), "{said}");
    }
    place.wait_for("web", "result 216816");
    // One that is paused stays paused, and its copy runs.
    place.done("pause web");
    place.done(&format!("snapshot web {saved}"));
    assert!(place.done("ps").contains(" paused "));
    place.done(&format!("restore {saved} --name copy --detach"));
    place.done("send copy uptime");
    place.wait_for("copy", "\nup ");
    place.done("kill --all");
    assert!(place.is_empty());
}

/// A snapshot has the disk as it was, whatever machines do later.
#[test]
fn a_disk_belongs_to_its_snapshot() {
    let place = Place::new("disk");
    let scratch = Scratch::new("disk-files");
    let file = disk(&scratch, "disk");
    let saved = scratch.path("saved");
    let copy = saved.join("disk0");
    let saved = saved.display().to_string();
    let changes = scratch.path("changes");
    std::fs::create_dir(&changes).unwrap();
    place.start_with("web", &format!("--disk {file}"));
    let take = format!("snapshot web {saved} --copy-disks");
    place.done(&take);
    let then = std::fs::read(&copy).unwrap();
    assert!(then == std::fs::read(&file).unwrap());
    // The old machine goes on writing, and so does the new one.
    write(&place, "web");
    let restore = format!("restore {saved} --detach --name");
    let kept = format!("--changes {}", changes.display());
    place.done(&format!("{restore} new {kept}"));
    write(&place, "new");
    place.done(&format!("{restore} lost"));
    write(&place, "lost");
    assert!(then == std::fs::read(&copy).unwrap());
    let said = place.fails(120, &format!("{restore} third {kept}"));
    assert!(said.contains("it exists: give '--changes'"), "{said}");
    // What has no name has no snapshot; what has one is a layer.
    let again = scratch.path("again");
    let again = again.display();
    let said = place.fails(126, &format!("snapshot lost {again}"));
    assert!(said.contains("'--changes'"), "{said}");
    place.done(&format!("snapshot new {again}"));
    let restore = format!("restore {again} --detach --name fourth");
    let said = place.fails(120, &restore);
    let (_, cure) = said.split_once("give '").unwrap();
    let (cure, _) = cure.split_once('\'').unwrap();
    place.done(&format!("{restore} {cure}"));
    write(&place, "fourth");
    place.done("kill --all");
    // A base that has changed is refused.
    std::fs::write(&copy, &then).unwrap();
    let said = place.fails(120, &format!("{restore} {cure}"));
    assert!(said.contains("it was written to"), "{said}");
    assert!(place.is_empty());
}

/// The files of a disk are those that the guest has open, and not what has
/// taken their names since.
#[test]
fn another_file_with_the_name_of_a_disk_does_not_count() {
    let place = Place::new("renamed");
    let scratch = Scratch::new("renamed-files");
    let file = disk(&scratch, "disk");
    let warm = scratch.path("warm").display().to_string();
    let again = scratch.path("again");
    let changes = scratch.path("changes");
    std::fs::create_dir(&changes).unwrap();
    place.start_with("web", &format!("--disk {file}"));
    let take = format!("snapshot web {warm} --copy-disks");
    place.done(&take);
    let kept = changes.display();
    let words = format!("restore {warm} --name two --detach --changes {kept}");
    place.done(&words);
    // The base of 'two' is replaced while it runs.
    place.done(&take);
    let said = place.fails(120, &format!("snapshot two {}", again.display()));
    assert!(said.contains("the guest has another file open"), "{said}");
    assert!(!again.exists());
    // A disk that is written to is copied from the file that is open.
    let old = std::fs::read(&file).unwrap();
    std::fs::rename(scratch.file("other", &[1; 4096]), &file).unwrap();
    place.done(&take);
    assert!(old == std::fs::read(scratch.path("warm").join("disk0")).unwrap());
    place.done("kill --all");
    assert!(place.is_empty());
}

/// A snapshot of a stranger says what its machine was started with. None of
/// that is the restored machine's.
#[test]
fn the_settings_of_a_restored_machine_are_not_those_of_its_snapshot() {
    let place = Place::new("strange");
    let scratch = Scratch::new("strange-files");
    let file = disk(&scratch, "disk");
    let saved = scratch.path("saved").display().to_string();
    let options =
        "--memory 32M --append word --timeout 1h --no-confine=seccomp";
    place.start_with("web", &format!("{options} --disk {file}"));
    place.done(&format!("snapshot web {saved} --copy-disks"));
    place.done(&format!("restore {saved} --name two --detach --cpus 0"));
    let said = place.done("inspect --toml two");
    for used in ["name = \"two\"", "memory = \"32768K\"", "cpus = \"0\""] {
        assert!(said.contains(used), "{used}: {said}");
    }
    for theirs in ["word", "timeout", "no-confine", "disk"] {
        assert!(!said.contains(theirs), "{theirs}: {said}");
    }
    place.done("kill --all");
    assert!(place.is_empty());
}

#[test]
fn a_folder_whose_name_no_machine_may_have_needs_another_for_its_clones() {
    let place = Place::new("named-clones");
    let said = place.fails(2, "clone /nowhere/.warm");
    assert!(said.contains("'.warm-1': a name has"), "{said}");
    // The cure is what the message names.
    assert!(said.contains("--name PREFIX"), "{said}");
    let said = place.fails(120, "clone /nowhere/.warm --name warm");
    assert!(said.contains("/nowhere/.warm"), "{said}");
}

/// What clones write must not lie above a snapshot that is removed.
#[test]
fn clones_of_a_running_machine_keep_no_changes() {
    let place = Place::new("kept-clones");
    let scratch = Scratch::new("kept-clones-files");
    let file = disk(&scratch, "disk");
    let changes = scratch.path("changes");
    place.start_with("web", &format!("--disk {file}"));
    let kept = format!("--changes {}", changes.display());
    let said = place.fails(120, &format!("clone web {kept} --copy-disks"));
    assert!(said.contains("'lguest snapshot web DIR'"), "{said}");
    // The cure.
    let warm = scratch.path("warm").display().to_string();
    place.done(&format!("snapshot web {warm} --copy-disks"));
    place.done(&format!("clone {warm} --name web {kept}"));
    write(&place, "web-1");
    let again = scratch.path("again").display().to_string();
    place.done(&format!("snapshot web-1 {again}"));
    place.done("kill --all");
    assert!(place.is_empty());
}

/// Has the guest write to its disk and read it back.
fn write(place: &Place, name: &str) {
    place.type_in(name, "dd 0 100 yes");
    place.wait_for(name, "51200 bytes: written at");
}

/// A guest of 2007 has its place on a network in its memory.
#[test]
fn a_guest_of_2007_goes_on_in_its_place_of_a_network() {
    let place = Place::new("place");
    let scratch = Scratch::new("place-files");
    let saved = scratch.path("saved").display().to_string();
    let file = |name| scratch.file(name, &[0; 4096]).display().to_string();
    let (lan, other) = (file("lan"), file("other"));
    let on = |lan: &str| format!("--net sharenet={lan}");
    place.start_with("one", &on(&lan));
    place.start_with("two", &on(&lan));
    let ping = |from: &str, slot: u32, times: usize| {
        let said = answers(&place, from, slot + 1, times - 1);
        assert!(!format!(" {said}").contains(" 0 of 4 answered"), "{said}");
    };
    ping("one", 1, 1);
    // It goes on, and frames arrive again.
    place.done(&format!("snapshot two {saved}"));
    ping("one", 1, 2);
    ping("two", 0, 1);
    let restore = format!("restore {saved} --detach --name");
    let said = place.fails(120, &format!("{restore} three {}", on(&lan)));
    assert!(said.contains("its place 1 is taken"), "{said}");
    let said = place.fails(120, &format!("{restore} three --net user"));
    assert!(said.contains("'--net none'"), "{said}");
    // In the same place of another network.
    place.done(&format!("{restore} three {}", on(&other)));
    place.start_with("four", &on(&other));
    ping("four", 1, 1);
    place.done("kill two");
    place.done(&format!("{restore} two {}", on(&lan)));
    ping("two", 0, 1);
    ping("one", 1, 3);
    place.done("kill --all");
}

#[test]
fn what_no_snapshot_can_have_is_refused_before_anything_is_written() {
    let place = Place::new("refused");
    let scratch = Scratch::new("refused-files");
    let saved = scratch.path("saved");
    let file = disk(&scratch, "disk");
    place.start_with("web", &format!("--disk {file},snapshot"));
    let words = format!("snapshot web {}", saved.display());
    let said = place.fails(126, &words);
    assert!(said.contains("',overlay=FILE'"), "{said}");
    assert!(!saved.exists());
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    place.done("kill web");
    let said = place.fails(127, "snapshot nothing /tmp/x");
    assert!(said.contains("there is no machine 'nothing'"), "{said}");
    place.start("web");
    std::fs::create_dir(&saved).unwrap();
    std::fs::write(saved.join("mine"), "mine").unwrap();
    let said = place.fails(120, &format!("snapshot web {}", saved.display()));
    assert!(said.contains("is no snapshot: choose another"), "{said}");
    let said = place.fails(120, "snapshot web /proc/x");
    assert!(said.contains("and the guest goes on"), "{said}");
    place.done("kill web");
}

#[test]
fn a_snapshot_that_is_damaged_or_not_ours_is_refused() {
    let place = Place::new("damaged");
    let scratch = Scratch::new("damaged-files");
    let folder = scratch.path("saved");
    let saved = folder.display().to_string();
    place.start("web");
    place.done(&format!("snapshot web {saved}"));
    place.done("kill web");
    let check = format!("snapshot check {saved}");
    let said = place.done(&check);
    assert!(said.contains("all checksums are right"), "{said}");
    assert!(said.contains("it can be restored"), "{said}");
    let restore = format!("restore {saved} --name web --detach");
    let with = |name: &str, bytes: &[u8], why: &str| {
        let path = folder.join(name);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        for words in [&check, &restore] {
            let said = place.fails(120, words);
            assert!(said.contains(why), "{name}: {said}");
        }
        std::fs::write(&path, good).unwrap();
    };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let memory = read("memory");
    let mut wrong = memory.clone();
    wrong[5000] ^= 1;
    with("memory", &wrong, "its checksum is wrong");
    with("memory", &memory[1..], "bytes instead of");
    with(
        "manifest.sum",
        b"0",
        "the checksum of its manifest is wrong",
    );
    let text = String::from_utf8(read("manifest.json")).unwrap();
    let newer = text.replace("\"format\":3,", "\"format\":4,");
    with("manifest.json", newer.as_bytes(), "knows format 3");
    let cut = &text.as_bytes()[..text.len() / 2];
    with("manifest.json", cut, "manifest is wrong");
    place.done(&check);
    let said = place.fails(120, "restore /none --name web");
    assert!(said.contains("there is no snapshot"), "{said}");
    std::fs::remove_file(folder.join("memory")).unwrap();
    assert!(place.fails(120, &check).contains("memory: "));
    place.done("rm --all");
    assert!(place.is_empty());
}

/// Without a name, on a terminal or a pipe, too.
#[test]
fn a_guest_can_be_restored_in_the_foreground() {
    let place = Place::new("in-front");
    let scratch = Scratch::new("in-front-files");
    let saved = scratch.path("saved");
    let saved = saved.display();
    place.start("web");
    place.done(&format!("snapshot web {saved}"));
    let mut command = place.command(&format!("restore {saved}"));
    let end = run(&mut command, b"echo restored\npoweroff 5\n").ends_well(5);
    assert!(end.stdout.contains("\nrestored"), "{end:?}");
    place.done("kill web");
    assert!(place.is_empty());
}

#[test]
fn clones_go_on_apart() {
    let place = Place::new("clones");
    let scratch = Scratch::new("clones-files");
    let file = disk(&scratch, "disk");
    place.start_with("web", &format!("--disk {file}"));
    let said = place.done("clone web -n 3 --copy-disks");
    assert_eq!(said, "web-1\nweb-2\nweb-3\n");
    for name in ["web-2", "web", "web-1", "web-3"] {
        write(&place, name);
        place.type_in(name, &format!("echo I am {name}"));
        place.wait_for(name, &format!("\nI am {name}"));
    }
    assert!(!printed(&place, "web-1").contains("I am web-2"));
    // From a folder; a name that is taken ends it.
    let saved = scratch.path("saved");
    let words = format!("snapshot web {} --copy-disks", saved.display());
    place.done(&words);
    let words = format!("clone {} --name web -n 5", saved.display());
    assert_eq!(place.run(&words).code(), 126);
    place.done("kill --all");
    assert!(place.is_empty());
}

/// Has the guest ping 10.0.0.`host`, and returns how often that answered. The
/// log has `before` such lines.
fn answers(place: &Place, name: &str, host: u32, before: usize) -> String {
    place.type_in(name, &format!("ping 10.0.0.{host} 4"));
    let start = Instant::now();
    loop {
        let said = printed(place, name);
        let lines = said.lines().filter(|line| line.contains(" of 4 answered"));
        if let Some(line) = lines.clone().nth(before) {
            return line.to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "{said}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A guest of each generation goes on with the network that it is given, or
/// with none.
#[test]
fn a_network_is_joined_anew() {
    let place = Place::new("networks");
    let scratch = Scratch::new("networks-files");
    let later = [LATER[0], LATER[4]].map(|later| {
        let path = later.of(&built_in(), &scratch);
        format!("--kernel {}", path.display())
    });
    let [first, second] = &later;
    let lan = scratch.file("lan", &[0; 4096]).display().to_string();
    let socket = scratch.path("socket").display().to_string();
    let saved = scratch.path("saved").display().to_string();
    let wires = [
        (
            format!("stream=unix:{socket},server"),
            format!("stream=unix:{socket}"),
        ),
        (format!("sharenet={lan}"), format!("sharenet={lan}")),
    ];
    for kernel in ["", first, second] {
        for (far, near) in &wires {
            let address = |last| format!("--append ip=10.0.0.{last}/24");
            let far = format!("--net {far} {kernel} {}", address(1));
            place.start_with("far", &far);
            let options = format!("--net {near} {kernel} {}", address(2));
            place.start_with("web", &options);
            let none = " 0 of 4 answered";
            let said = format!(" {}", answers(&place, "web", 1, 0));
            assert!(!said.contains(none), "{options}: {said}");
            place.done(&format!("snapshot web {saved}"));
            place.done("kill web");
            let restore = format!("restore {saved} --name web --detach");
            place.done(&format!("{restore} --net {near}"));
            let said = format!(" {}", answers(&place, "web", 1, 0));
            assert!(!said.contains(none), "{options}: {said}");
            place.done("kill web");
            // Without a network.
            let end = place.run(&restore);
            assert_eq!(end.code(), 0, "{end:?}");
            let told = "network interface 1 (";
            assert!(end.stderr.contains(told), "{end:?}");
            let said = format!(" {}", answers(&place, "web", 1, 0));
            assert!(said.contains(none), "{options}: {said}");
            // Such a machine has snapshots, too.
            place.done(&format!("snapshot web {saved}"));
            place.done("kill --all");
            let two = format!("{restore} --net none --net none");
            let said = place.fails(120, &two);
            assert!(said.contains("leave some '--net' out"), "{said}");
            place.done(&format!("{restore} --net none"));
            place.done("kill --all");
        }
    }
    let said = place.fails(120, &format!("restore {saved} --net user,mtu=900"));
    assert!(said.contains("leave ',mtu=900' out"), "{said}");
    assert!(place.is_empty());
}

/// Makes a snapshot one of another boot, or also of another processor.
pub(crate) fn from_elsewhere(folder: &Path, field: &str) {
    let path = folder.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let field = format!("\"{field}\":\"");
    let (before, rest) = text.split_once(&field).unwrap();
    let (_, rest) = rest.split_once('"').unwrap();
    let text = format!("{before}{field}another\"{rest}");
    let sum = lguest::snapshot::checksum(text.as_bytes());
    std::fs::write(path, text).unwrap();
    std::fs::write(folder.join("manifest.sum"), format!("{sum:016x}")).unwrap();
}

/// The seconds since its boot that a guest tells.
fn uptime(place: &Place, name: &str) -> f64 {
    let before = printed(place, name).matches("\nup ").count();
    place.done(&format!("send {name} uptime"));
    let start = Instant::now();
    loop {
        let said = printed(place, name).replace('\r', "");
        let line = said.split("\nup ").nth(before + 1);
        if let Some((line, _)) = line.and_then(|line| line.split_once('\n')) {
            let word = line.split_whitespace().next().unwrap();
            return word.parse::<f64>().unwrap() / 1e3;
        }
        assert!(start.elapsed() < PATIENCE, "{said}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where the processor's time-stamp counter is not the guest's, lguest tells
/// the guest its own, and its clock goes on.
#[test]
fn a_guest_of_another_boot_goes_on_with_its_own_counter() {
    let place = Place::new("elsewhere");
    let scratch = Scratch::new("elsewhere-files");
    let later = LATER[0].of(&built_in(), &scratch);
    let later = format!("--kernel {}", later.display());
    let folder = scratch.path("saved");
    let saved = folder.display();
    let take = format!("snapshot web {saved}");
    let restore = format!("restore {saved} --name web --detach");
    for kernel in ["", &later] {
        for isolation in ["guest", "user"] {
            let options = format!("{kernel} --isolation {isolation}");
            place.start_with("web", &options);
            let then = (Instant::now(), uptime(&place, "web"));
            place.done(&take);
            place.done("kill web");
            from_elsewhere(&folder, "boot");
            for _ in 0..2 {
                let end = place.run(&restore);
                assert_eq!(end.code(), 0, "{end:?}");
                assert!(end.stderr.contains("another boot"), "{end:?}");
                // It reads its clock when it has run a program, too.
                place.type_in("web", "run primes 100000");
                place.wait_for("web", "result ");
                let now = uptime(&place, "web");
                let least = now - then.1;
                let most = then.0.elapsed().as_secs_f64() + 0.1;
                assert!((0.0..most).contains(&least), "{options}: {least}");
                // It told its counter; so did the one before it.
                let said = place.done("stats web");
                assert!(said.contains("counter_reads"), "{said}");
                place.done(&take);
                place.done("kill web");
            }
        }
    }
    let said = place.done(&format!("snapshot check {saved}"));
    assert!(said.contains("lguest tells the guest its time"), "{said}");
    from_elsewhere(&folder, "boot");
    from_elsewhere(&folder, "processor");
    let said = place.fails(120, &restore);
    assert!(said.contains("another processor"), "{said}");
    place.done("rm --all");
    assert!(place.is_empty());
}

/// A restored guest gets a folder for its share only from the user.
#[test]
fn a_share_is_given_anew() {
    let place = Place::new("shares");
    let scratch = Scratch::new("shares-files");
    let kernel = LATER[0].of(&built_in(), &scratch);
    let folder = scratch.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let saved = scratch.path("saved").display().to_string();
    let share = format!("--share {},tag", folder.display());
    place.start_with("web", &format!("--kernel {} {share}", kernel.display()));
    place.done(&format!("snapshot web {saved}"));
    place.done("kill web");
    let restore = format!("restore {saved} --name web --detach");
    let said = place.fails(120, &restore);
    assert!(said.contains("give '--share FOLDER,tag' with"), "{said}");
    let said = place.fails(120, &format!("{restore} {share},ro"));
    assert!(said.contains("give '--share FOLDER,tag' with"), "{said}");
    let other = format!("{restore} {share} {share}2");
    let said = place.fails(120, &other);
    assert!(said.contains("the guest has no share tag2"), "{said}");
    place.done(&format!("{restore} {share}"));
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    place.done(&format!("clone web --name two {share}"));
    place.done("kill --all");
    assert!(place.is_empty());
}

/// A disk that is full during a snapshot leaves the old one.
#[test]
fn a_full_disk_leaves_the_old_snapshot() {
    let place = Place::new("full");
    let scratch = Scratch::new("full-files");
    let saved = scratch.path("saved");
    place.start("web");
    let words = format!("snapshot web {}", saved.display());
    place.done(&words);
    let old = std::fs::read(saved.join("manifest.json")).unwrap();
    // Each file in turn is the one for which there is no room.
    for kib in [0, 8, 64, 256] {
        let mut limited = std::process::Command::new("sh");
        let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
        limited.arg("-c").arg(script);
        let blocks = (kib * 2).to_string();
        let command = place.command(&words);
        limited.args(["sh", &blocks]).arg(command.get_program());
        limited.args(command.get_args());
        for (name, value) in command.get_envs() {
            limited.env(name, value.unwrap_or_default());
        }
        let end = run(&mut limited, b"");
        assert_eq!(end.code(), 120, "{kib} KiB: {end:?}");
        let told = "what was there before is still there, and the guest goes";
        assert!(end.stderr.contains(told), "{end:?}");
        check(&place, &saved);
        let now = std::fs::read(saved.join("manifest.json")).unwrap();
        assert!(now == old, "{kib} KiB");
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(scratch.path("")).unwrap().count(), 1);
    }
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    place.done("kill web");
    assert!(place.is_empty());
}

/// A command that is killed leaves the old snapshot, and the guest goes on.
#[test]
fn a_kill_leaves_the_old_snapshot_or_the_new_one() {
    let place = Place::new("killed");
    let scratch = Scratch::new("killed-files");
    let saved = scratch.path("saved");
    let file = disk(&scratch, "disk");
    place.start_with("web", &format!("--disk {file}"));
    let words = format!("snapshot web {} --copy-disks", saved.display());
    place.done(&words);
    let mut killed = 0;
    for round in 0..24 {
        let mut taking = place.command(&words);
        taking.stdout(Stdio::null());
        let mut taking = taking.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 3));
        taking.kill().unwrap();
        killed += u32::from(!taking.wait().unwrap().success());
        check(&place, &saved);
    }
    assert!(killed > 0, "each was faster than its kill");
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    place.done(&words);
    // Nothing is left beside it but the disk.
    let start = Instant::now();
    while std::fs::read_dir(scratch.path("")).unwrap().count() > 2 {
        assert!(start.elapsed() < PATIENCE, "something is left");
    }
    place.done("kill web");
    assert!(place.is_empty());
}

fn check(place: &Place, saved: &Path) {
    let said = place.done(&format!("snapshot check {}", saved.display()));
    assert!(said.contains("all checksums are right"), "{said}");
}
