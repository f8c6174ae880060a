//! Command lines, good and bad.

use super::*;
use crate::engine::Isolation;
use crate::machine::config::{
    Allowed, Changes, DiskConfig, Host, LinkConfig, NetConfig, Parent,
    Published, ShareConfig, Stats, StreamAt, StreamConfig, TapConfig,
    UserConfig,
};
use crate::memory::MAX_RAM;
use lg_wire::fast_path;
use std::num::NonZeroU32;
use std::time::Duration;
use values::size;

fn parse_words(words: &str) -> Result<Config, UsageError> {
    let words = words.split_whitespace().map(OsString::from);
    match parse([OsString::from("lguest")].into_iter().chain(words))? {
        Task::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_described_for_a_person_or_a_script() {
    for (words, json) in [
        ("image a", false),
        ("image a --json", true),
        ("image --json a", true),
    ] {
        let all = format!("lguest {words}");
        let task = parse(all.split(' ').map(OsString::from)).unwrap();
        let file = "a".into();
        assert_eq!(task, Task::Image { file, json }, "{words}");
    }
    assert!(parse_words("image").is_err());
    assert!(error("imag a").contains("'lguest image'"));
}

#[test]
fn completions_and_manual_pages_are_commands() {
    let task =
        |words: &str| parse(words.split(' ').map(OsString::from)).unwrap();
    assert_eq!(task("lguest completion zsh"), Task::Completion(Shell::Zsh));
    assert_eq!(task("lguest man a"), Task::Manual("a".into()));
    assert!(error("completion").contains("SHELL"));
    assert!(error("completion tcsh").contains("bash"));
}

#[test]
fn the_doctor_is_a_word_and_not_a_size_of_memory() {
    for (words, json) in [("doctor", false), ("doctor --json", true)] {
        let words = format!("lguest {words}");
        let task = parse(words.split(' ').map(OsString::from)).unwrap();
        assert_eq!(task, Task::Doctor { json });
    }
    assert!(parse_words("doctor 64").is_err());
}

fn error(words: &str) -> String {
    parse_words(words).unwrap_err().to_string()
}

#[test]
fn networks_have_their_kinds() {
    let link = |text: &str| {
        let config = parse_words(&format!("run --net {text}")).unwrap();
        match &config.devices[..] {
            [DeviceConfig::Net(net)] => net.link.clone(),
            other => panic!("{other:?}"),
        }
    };
    let address =
        |bits| LinkConfig::Tap(TapConfig::Address([10, 0, 0, 1].into(), bits));
    assert_eq!(link("tap=10.0.0.1"), address(24));
    assert_eq!(link("tap=10.0.0.1/30"), address(30));
    assert_eq!(link("tap=10.0.0.1/0"), address(0));
    let stream = |at, server| LinkConfig::Stream(StreamConfig { at, server });
    let path = |path: &str| StreamAt::Path(path.into());
    assert_eq!(link("stream=unix:/a,b"), stream(path("/a,b"), false));
    assert_eq!(link("stream=unix:a,server"), stream(path("a"), true));
    assert_eq!(link("stream=fd:7"), stream(StreamAt::Given(7), false));
    assert_eq!(link("stream=fd:7,server"), stream(StreamAt::Given(7), true));
    assert_eq!(link("tap=fd:5"), LinkConfig::Tap(TapConfig::Given(5)));
    assert_eq!(link("user"), LinkConfig::User(UserConfig::default()));
    let words = "run --net stream=unix:a,server,pcap=b,mac=52:54:0:12:34:5F,\
                 mtu=9000";
    let config = parse_words(&format!("{words} --net none")).unwrap();
    let expected = DeviceConfig::Net(NetConfig {
        link: stream(path("a"), true),
        mac: Some([0x52, 0x54, 0, 0x12, 0x34, 0x5F]),
        far: None,
        mtu: Some(9000),
        capture: Some("b".into()),
    });
    assert_eq!(config.devices, [expected]);
    let all = "user,publish=8080:80,publish=[::1]:53:5353/udp,restrict,\
               publish=0.0.0.0:1:65535,allow=Known.example:443,\
               allow=[2001:db8::7]:53/udp,allow=10.0.2.2:1";
    let published = |address: &str, host, guest, udp| Published {
        address: address.parse().unwrap(),
        host,
        guest,
        udp,
    };
    let allowed = |host, port, udp| Allowed { host, port, udp };
    let address = |text: &str| Host::Address(text.parse().unwrap());
    let expected = UserConfig {
        publish: vec![
            published("127.0.0.1", 8080, 80, false),
            published("::1", 53, 5353, true),
            published("0.0.0.0", 1, 65535, false),
        ],
        restrict: true,
        allow: vec![
            allowed(Host::Name("known.example".into()), 443, false),
            allowed(address("2001:db8::7"), 53, true),
            allowed(address("10.0.2.2"), 1, false),
        ],
    };
    assert_eq!(link(all), LinkConfig::User(expected));
}

fn disk(path: &str, read_only: bool) -> DeviceConfig {
    DeviceConfig::Disk(DiskConfig {
        path: path.into(),
        layers: Vec::new(),
        read_only,
        changes: Changes::Kept,
        raw: false,
        fail: None,
    })
}

fn tap(config: TapConfig) -> DeviceConfig {
    DeviceConfig::Net(NetConfig::new(LinkConfig::Tap(config)))
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_old_form_takes_options_anywhere_and_devices_in_order() {
    let config = parse_words(
        "--block=a --sharenet=lan 64 vmlinux --tunnet=192.168.19.1 \
         root=/dev/lgba --tunnet=bridge:br0 --block=b quiet --initrd=rd",
    )
    .unwrap();
    assert_eq!(config.memory, 64 << 20);
    assert_eq!(config.kernel, Kernel::File("vmlinux".into()));
    assert_eq!(config.initrd, Some("rd".into()));
    assert_eq!(config.command_line, b"root=/dev/lgba quiet");
    let address = TapConfig::Address([192, 168, 19, 1].into(), 24);
    let expected = [
        disk("a", false),
        DeviceConfig::ShareNet("lan".into()),
        tap(address),
        tap(TapConfig::Bridge("br0".into())),
        disk("b", false),
    ];
    assert_eq!(config.devices, expected);
    assert!(!config.verbose);
}

#[test]
fn the_new_form_means_the_same() {
    let config = parse_words(
        "run --disk a,ro --net sharenet=lan --memory 4080 --kernel bz \
         --disk b --net tap=10.0.0.1 --net bridge=br0 --append root=x \
         --append -v --stats - --no-fast-path iret \
         --no-fast-path eager",
    )
    .unwrap();
    let address = TapConfig::Address([10, 0, 0, 1].into(), 24);
    let expected = [
        disk("a", true),
        DeviceConfig::ShareNet("lan".into()),
        disk("b", false),
        tap(address),
        tap(TapConfig::Bridge("br0".into())),
    ];
    assert_eq!(config.devices, expected);
    assert_eq!(config.memory, MAX_RAM);
    assert_eq!(config.command_line, b"root=x -v");
    assert_eq!(config.stats, Some(Stats::Stdout));
    assert_eq!(config.slow_paths, fast_path::IRET | fast_path::EAGER);
    assert_eq!(config.isolation, Isolation::Guest);
    let config = parse_words("run --isolation=user").unwrap();
    assert_eq!(config.isolation, Isolation::User);
    let config = parse_words("--isolation=user 1 v").unwrap();
    assert_eq!(config.isolation, Isolation::User);
}

#[test]
fn without_a_kernel_the_built_in_guest_runs() {
    for words in ["", "run", "--stats=s", "run --disk d"] {
        let config = parse_words(words).unwrap();
        assert_eq!(config.kernel, Kernel::Embedded, "{words}");
        assert_eq!(config.memory, 32 << 20, "{words}");
    }
}

#[test]
fn sizes_have_units_and_limits() {
    assert_eq!(size("1").unwrap(), 1 << 20);
    assert_eq!(size("64M").unwrap(), 64 << 20);
    assert_eq!(size("64MiB").unwrap(), 64 << 20);
    assert_eq!(size("2049k").unwrap(), 2 << 20);
    let refused = |text| size(text).unwrap_err().to_string();
    for too_much in ["4G", "5000", "4097g", "99999999999999999999"] {
        let error = UsageError::TooMuchMemory(too_much.into());
        assert_eq!(refused(too_much), error.to_string());
    }
    for too_little in ["0", "0G", "1023K"] {
        let error = UsageError::TooLittleMemory(too_little.into());
        assert_eq!(refused(too_little), error.to_string());
    }
    for nothing in ["", "M", "64X", "-1", "6 4", "1.5G"] {
        let error = UsageError::NotASize(nothing.into());
        assert_eq!(refused(nothing), error.to_string());
    }
}

#[test]
fn nonsense_is_refused_with_the_cure() {
    assert!(error("64").contains("'lguest 64 vmlinux'"));
    assert!(error("run --net lan").contains("'lan' is not sharenet="));
    for bad in [
        "tap=x",
        "tap=10.0.0.1/33",
        "tap=10.0.0.1/+8",
        "bridge=",
        "stream=",
        "stream=unix:",
        "stream=unix:,server",
        "stream=fd:x",
        "stream=fd:-1",
        "stream=fd:3,client",
        "stream=10.0.0.1:5",
        "tap=fd:x",
        "user,mac=1:2:3:4:5",
        "user,mac=2:2:3:4:5:6:7",
        "user,mac=+2:2:3:4:5:6",
        "user,mac=01:02:03:04:05:06",
        "user,mac=0:0:0:0:0:0",
        "user,mtu=",
        "user,mtu=575",
        "user,mtu=9001",
        "user,mtu=+1500",
        "user,mtu=65537",
        "user,pcap=",
        "none,pcap=a",
        "users",
        "user,",
        "user,publish=",
        "user,publish=80",
        "user,publish=0:80",
        "user,publish=80:65536",
        "user,publish=::1:80:80",
        "user,publish=host:80:80",
        "user,publish=80:80/tcp",
        "user,restricted",
        "user,allow=a.example:80",
        "user,restrict,allow",
        "user,restrict,allow=",
        "user,restrict,allow=a.example",
        "user,restrict,allow=:80",
        "user,restrict,allow=a.example:0",
        "user,restrict,allow=a.example:80/tcp",
        "user,restrict,allow=a..example:80",
        "user,restrict,allow=-a.example:80",
        "user,restrict,allow=a/b:80",
        "user,restrict,allow=::1:80",
        "user,restrict,allow=[::1:80",
        "user,restrict,allow=1.2.3:80",
        "user,restrict,allow=0x7f000001:80",
    ] {
        let said = error(&format!("run --net {bad}"));
        assert!(said.contains(&format!("'{bad}' is not")), "{said}");
    }
    assert!(error("run --net sharenet=").contains("is not sharenet="));
    assert!(error("--tunnet=x 1 v").contains("neither an IP address"));
    assert!(error("--blok=x 1 v").contains("--block"));
    assert!(error("run --memroy 1").contains("--memory"));
    assert!(error("doctor --jsn").contains("'--json'"));
    let many = "--block=x ".repeat(16);
    assert!(error(&many).contains("17 devices are too many"));
    assert!(parse_words(&"--block=x ".repeat(15)).is_ok());
}

#[test]
fn a_misspelt_command_is_recognised() {
    for (words, meant) in [
        ("rum --memory 5", "run"),
        ("rum vmlinux", "run"),
        ("rnu", "run"),
        ("-v ru -k vmlinux", "run"),
        ("doctr", "doctor"),
        ("docter --json", "doctor"),
        ("Doctor", "doctor"),
    ] {
        let said = error(words);
        let cure = format!("did you mean 'lguest {meant}'?");
        assert!(said.contains(&cure), "{words}: {said}");
    }
}

#[test]
fn an_image_without_a_size_is_refused_with_both_ways_to_give_it() {
    for words in ["vmlinux", "vmlinux root=/dev/lgba", "--block=x bzImage"] {
        let said = error(words);
        let image = words.split(' ').find(|w| !w.starts_with('-')).unwrap();
        let cures: Vec<_> = said
            .split('\'')
            .filter(|part| part.starts_with("lguest "))
            .collect();
        assert_eq!(cures.len(), 2, "{said}");
        for cure in cures {
            let config = parse_words(cure.strip_prefix("lguest ").unwrap());
            let kernel = Kernel::File(image.into());
            assert_eq!(config.unwrap().kernel, kernel, "{cure}");
        }
    }
    assert!(error("64x vmlinux").contains("'64x' is not a size: give mega"));
}

#[test]
fn options_may_stand_before_the_command() {
    for (words, same) in [
        ("--isolation=user run", "run --isolation=user"),
        ("-v run -k v", "run -v -k v"),
        (
            "--isolation user --log l run -d d",
            "run --isolation user --log l -d d",
        ),
        (
            "--exit-on-eof --die-with-parent run",
            "run --exit-on-eof --die-with-parent",
        ),
        ("-m 5 run", "run -m 5"),
    ] {
        let config = parse_words(words).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config, parse_words(same).unwrap(), "{words}");
    }
    // Only the first word can be a command.
    let config = parse_words("64 run doctor run").unwrap();
    assert_eq!(config.kernel, Kernel::File("run".into()));
    assert_eq!(config.command_line, b"doctor run");
    let config = parse_words("--block run 64 vmlinux").unwrap();
    assert_eq!(config.devices, [disk("run", false)]);
    assert!(parse_words("-- run").is_err());
}

#[test]
fn an_option_of_the_other_form_is_translated() {
    let said = error("--kernel vmlinux --memory 5");
    assert_eq!(
        said,
        "'--kernel' is an option of 'lguest run': write 'run' before it"
    );
    assert!(error("-d disk").contains("'-d' is an option of 'lguest run'"));
    for (old, new) in [
        ("--block", "--disk a"),
        ("--sharenet", "--net sharenet=a"),
        ("--tunnet", "--net bridge=a"),
    ] {
        let said = error(&format!("run {old}=a"));
        let cure = new.split_once(['=', 'a']).unwrap().0.trim_end();
        assert!(said.contains(&format!("'{cure}")), "{said}");
        assert!(parse_words(&format!("run {new}")).is_ok());
    }
}

#[test]
fn a_word_without_an_option_is_refused_with_the_option_it_needs() {
    for (words, cure) in [
        ("run vmlinux", "--kernel vmlinux"),
        ("run 64 vmlinux", "--memory 64"),
        ("run -k vmlinux root=/dev/lgba", "--append root=/dev/lgba"),
        ("run -k vmlinux quiet", "--append quiet"),
        ("run root=/dev/lgba", "--append root=/dev/lgba"),
    ] {
        let said = error(words);
        assert!(said.ends_with(&format!("write '{cure}'")), "{said}");
        let word = cure.rsplit(' ').next().unwrap();
        let done = words.replacen(&format!(" {word}"), &format!(" {cure}"), 1);
        let again = parse_words(&done).map(drop).map_err(|e| e.to_string());
        assert_ne!(again, Err(said), "{done}");
    }
}

#[test]
fn times_have_units_and_limits() {
    let time = |text| values::duration(text).map(|time| time.as_millis());
    for (text, ms) in [
        ("90", 90_000),
        ("90s", 90_000),
        ("500ms", 500),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("365d", 31_536_000_000),
    ] {
        assert_eq!(time(text), Ok(ms), "{text}");
    }
    for text in ["", "s", "0", "0ms", "366d", "1.5s", "-1", "5 m", "5w"] {
        assert!(time(text).unwrap_err().starts_with("give "), "{text}");
    }
    let longest = "99999999999999999999h";
    assert!(time(longest).unwrap_err().contains("a year (365d)"));
    let config = parse_words("run --timeout 2m --exit-on-eof").unwrap();
    assert_eq!(config.timeout, Some(Duration::from_secs(120)));
    assert!(config.exit_on_eof);
    assert!(error("run --timeout soon").contains("give seconds (90)"));
}

#[test]
fn a_parent_may_have_a_number() {
    let parent = |words| parse_words(words).unwrap().die_with;
    assert_eq!(parent("run"), None);
    assert_eq!(parent("run --die-with-parent"), Some(Parent::Whoever));
    let number = NonZeroU32::new(77).unwrap();
    let words = "--die-with-parent=77 64 vmlinux";
    assert_eq!(parent(words), Some(Parent::Number(number)));
    for words in ["0", "x", "-1", "4294967295", ""] {
        let words = format!("run --die-with-parent={words}");
        assert!(parse_words(&words).is_err(), "{words}");
    }
    let config = parse_words("--die-with-parent 64 vmlinux").unwrap();
    assert_eq!(config.kernel, Kernel::File("vmlinux".into()));
}

#[test]
fn the_kernels_command_line_is_at_most_a_page() {
    let line = |n: usize| "x".repeat(n);
    let file = |n| parse_words(&format!("run -k v -a {}", line(n)));
    let ours = |n| parse_words(&format!("run -a {}", line(n)));
    for (form, most) in
        [(&file as &dyn Fn(usize) -> _, 4095), (&ours, 4095 - 31)]
    {
        let config: Config = form(most).unwrap();
        let whole = config.kernel.command_line(&config.command_line, u64::MAX);
        assert_eq!(whole.len(), 4095);
        let error = form(most + 1).unwrap_err().to_string();
        let said = format!("has {} bytes: shorten it to {most}", most + 1);
        assert!(error.contains(&said), "{error}");
    }
}

#[test]
fn flags_of_a_disk_may_come_in_any_order() {
    let value = |text: &str| values::disk(text.as_ref()).unwrap();
    assert_eq!(value("a,ro"), disk("a", true));
    assert_eq!(value("a,b"), disk("a,b", false));
    for words in ["a,ro,raw,fail=20", "a,fail=20,raw,ro"] {
        let all = DiskConfig {
            path: "a".into(),
            layers: Vec::new(),
            read_only: true,
            changes: Changes::Kept,
            raw: true,
            fail: Some(20),
        };
        assert_eq!(value(words), DeviceConfig::Disk(all), "{words}");
    }
}

#[test]
fn changes_of_a_disk_have_one_place() {
    let changes = |text: &str| match values::disk(text.as_ref()) {
        Ok(DeviceConfig::Disk(disk)) => Ok((disk.path, disk.changes)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let overlay = |file: &str| Ok(("a".into(), Changes::Overlay(file.into())));
    assert_eq!(changes("a,overlay=b.qcow2"), overlay("b.qcow2"));
    assert_eq!(changes("a,raw,overlay=b,fail=3"), overlay("b"));
    assert_eq!(changes("a,snapshot"), Ok(("a".into(), Changes::ThrownAway)));
    let kept = ("a,snapshot".into(), Changes::Kept);
    assert_eq!(changes("a,snapshot,rw"), Ok(kept));
    for bad in [
        "a,overlay=",
        "a,ro,snapshot",
        "a,overlay=b,ro",
        "a,snapshot,overlay=b",
        "a,overlay=b,overlay=c",
    ] {
        let error = changes(bad).unwrap_err();
        assert!(error.contains("say where its changes go"), "{error}");
        assert_eq!(
            changes(&format!("{bad},rw")),
            Ok((bad.into(), Changes::Kept)),
            "the cure"
        );
    }
}

#[test]
fn names_may_end_like_an_option() {
    let value = |text: &str| values::disk(text.as_ref());
    assert_eq!(value("a,ro,rw").unwrap(), disk("a,ro", false));
    assert_eq!(value("a,raw,rw,ro").unwrap(), disk("a,raw", true));
    for name in ["a,fail=", "a,fail=0", "a,fail=x", "a,fail=-1,ro"] {
        let error = value(name).unwrap_err().to_string();
        assert!(error.contains("give a number from 1 up"), "{error}");
        // The cure works.
        let name = name.trim_end_matches(",ro");
        let written = format!("{name},rw");
        assert_eq!(value(&written).unwrap(), disk(name, false));
    }
}

#[test]
fn a_share_is_a_folder_and_a_name() {
    let share = |path: &str, tag: &str, read_only| {
        DeviceConfig::Share(ShareConfig {
            path: path.into(),
            tag: tag.into(),
            read_only,
        })
    };
    let value = |text: &str| values::share(text.as_ref());
    assert_eq!(value("/a,b").unwrap(), share("/a", "b", false));
    assert_eq!(value("/a,b,ro").unwrap(), share("/a", "b", true));
    assert_eq!(
        value("a,b,c-1_2.x").unwrap(),
        share("a,b", "c-1_2.x", false)
    );
    assert_eq!(value("a,ro,ro").unwrap(), share("a", "ro", true));
    let long = "x".repeat(32);
    for bad in [
        "a",
        "a,",
        ",b",
        "a,ro",
        "a,b c",
        "a,ü",
        &format!("a,{long}"),
    ] {
        let words = format!("share '{bad}' is not DIR,TAG");
        // What is left of `a,ro` has no tag.
        assert!(error_of(value(bad)).contains(&words), "{bad}");
    }
    assert!(value(&format!("a,{}", &long[1..])).is_ok());
    let twice = error("run --share a,b --share c,b,ro");
    assert!(twice.contains("two shares are called 'b'"), "{twice}");
    let config = parse_words("run --share a,x --disk d --share b,y").unwrap();
    let disk = disk("d", false);
    let all = [share("a", "x", false), disk, share("b", "y", false)];
    assert_eq!(config.devices, all);
    assert!(error("1 v --share=a,b").contains("--share"));
}

#[test]
fn a_share_of_a_command_may_have_no_tag() {
    let without = |text: &str| values::has_no_tag(text.as_ref());
    assert!(without(".") && without(".,ro") && without("/a b"));
    // `a,` and `a,ü` are mistakes, and not names of folders.
    for text in ["", ",ro", "a,b", "a,b,ro", "a,", "a,ü", "a,ro,ro"] {
        assert!(!without(text), "{text}");
    }
    let said = error("exec --snapshot . --share .,ro -- true");
    assert!(said.contains("give '--share DIR,TAG'"), "{said}");
}

fn error_of(value: Result<DeviceConfig, UsageError>) -> String {
    value.unwrap_err().to_string()
}

#[test]
fn after_two_dashes_all_words_go_to_the_kernel() {
    let config = parse_words("1 v -- --block=x").unwrap();
    assert_eq!(config.command_line, b"--block=x");
    assert!(config.devices.is_empty());
}

#[test]
fn each_clone_has_the_next_address() {
    let of = |text: &str, number| {
        let own = networks::text_of_clone(text, number);
        if let Ok(mut network) = networks::net(text.as_ref()) {
            networks::give_to_clone(&mut network, number);
            assert_eq!(networks::net(own.as_ref()).unwrap(), network);
        }
        own
    };
    assert_eq!(
        of("user,mac=52:54:0:12:34:ff", 1),
        "user,mac=52:54:00:12:34:ff"
    );
    let given = "stream=unix:/a,x=b,mac=52:54:00:12:34:fe,mtu=9000";
    let third = "stream=unix:/a,x=b,mac=52:54:00:12:35:00,mtu=9000";
    assert_eq!(of(given, 3), third);
    assert_eq!(
        of("user,mac=52:54:00:ff:ff:ff", 2),
        "user,mac=52:54:00:00:00:00"
    );
    for other in ["user", "none", "user,mac=x", "sharenet=/a,mac=2"] {
        assert_eq!(of(other, 2), other);
    }
}

#[test]
fn a_restored_guest_has_networks_and_a_log() {
    let restore = |words: &str| {
        let words = format!("lguest restore saved {words}");
        match parse(words.split_whitespace().map(OsString::from)) {
            Ok(Task::Restore(restore)) => Ok(*restore),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    };
    let given = restore("--net none --net user,mtu=9000").unwrap();
    let [None, Some(DeviceConfig::Net(net))] = &given.networks[..] else {
        panic!("{given:?}");
    };
    assert_eq!(net.mtu, Some(9000));
    assert_eq!(given.settings.net, ["none", "user,mtu=9000"]);
    assert!(restore("--net nothing").unwrap_err().contains("nothing"));
    let error = restore("--net sharenet=a --net-limit 1M").unwrap_err();
    assert!(error.contains("--net-limit"), "{error}");
    let error = restore("--log-limit 1M").unwrap_err();
    assert!(error.contains("--log"), "{error}");
    assert!(restore("--log-limit 1M --log file").is_ok());
    let twice = restore("--share a,b --share c,b").unwrap_err();
    assert!(twice.contains("two shares are called 'b'"), "{twice}");
}
