//! Many machines at the same time.

use crate::place::Place;
use crate::support::Running;

#[test]
fn many_machines_end_by_one_command() {
    const MACHINES: usize = 12;
    let place = Place::new("many");
    let start = |n| {
        let words = format!("run --memory 4M --detach --name m{n}");
        Running::start(&mut place.command(&words))
    };
    let starts: Vec<Running> = (0..MACHINES).map(start).collect();
    for start in starts {
        start.finish().ends_well(0);
    }
    let launchers: Vec<_> = (0..MACHINES)
        .map(|n| place.launcher(&format!("m{n}")))
        .collect();
    let table = place.done("ps");
    assert_eq!(table.matches(" running ").count(), MACHINES, "{table}");
    place.done("kill --all");
    for launcher in launchers {
        assert!(!launcher.lives());
    }
    assert!(place.is_empty());
}
