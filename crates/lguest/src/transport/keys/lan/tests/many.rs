//! Many members, of which some flood, some do not read, and some come and go.

use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

const MEMBERS: u32 = 16;

/// How many buffers each member has.
const BUFFERS: u32 = 8;

/// Members in the slots from 0 on, which have all met.
fn members() -> (Scratch, Vec<Station>) {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let all: Vec<_> = (0..MEMBERS).map(|_| launcher(&file, BUFFERS)).collect();
    let expected = (MEMBERS * (MEMBERS - 1)) as usize;
    eventually("all have met", || {
        all.iter().map(|(_, lan)| lan.peers()).sum::<usize>() == expected
    });
    (dir, all)
}

/// Sends `frame` to `slot`, and returns whether it was taken.
fn gives((host, lan): &Station, slot: u32, frame: &[u8]) -> bool {
    host.prepare(frame);
    lan.send_frame(SEND, key(slot)).unwrap() != 0
}

/// Frees all buffers, and returns what was in them.
fn empties((host, _): &Station) -> Vec<Vec<u8>> {
    (0..BUFFERS).filter_map(|i| host.take(i)).collect()
}

#[test]
fn sixteen_members_reach_each_other() {
    let (_dir, all) = members();
    for (me, from) in (0..).zip(&all) {
        for (slot, to) in (0..).zip(&all).filter(|&(slot, _)| slot != me) {
            let sent = frame(u8::try_from(16 * me + slot).unwrap(), 60);
            assert!(gives(from, slot, &sent), "{me} to {slot}");
            assert_eq!(empties(to), [sent], "{me} to {slot}");
        }
    }
    assert!(all.iter().all(|member| empties(member).is_empty()));
}

/// Members 0 to 4 flood all others, 5 to 7 never read, the rest reads.
#[test]
fn floods_end_and_cost_nobody_the_frames_of_another() {
    const FLOODS: usize = 5;
    const READS: usize = 8;
    const ROUNDS: u32 = 20;
    let (_dir, all) = members();
    let (floods, others) = all.split_at(FLOODS);
    let readers = &all[READS..];
    let stop = AtomicBool::new(false);
    let stopped = || stop.load(Ordering::SeqCst);
    let (given, came) = thread::scope(|s| {
        let flood = |me: usize| {
            let mut given = [0_u64; MEMBERS as usize];
            let mut rounds = 0;
            while !stopped() || rounds < ROUNDS {
                rounds += 1;
                for slot in (0..MEMBERS).filter(|&slot| slot as usize != me) {
                    let taken = gives(&floods[me], slot, &frame(7, 1514));
                    given[slot as usize] += u64::from(taken);
                }
            }
            given
        };
        let floods: Vec<_> =
            (0..FLOODS).map(|me| s.spawn(move || flood(me))).collect();
        // Meanwhile two readers exchange short frames, and none is lost that
        // was taken.
        let slot = u32::try_from(READS + 1).unwrap();
        let mut came = vec![0_u64; readers.len()];
        for round in 0..100_u8 {
            let honest = frame(round, 60);
            let mut taken = false;
            let mut arrived = false;
            eventually("it comes through", || {
                taken = taken || gives(&readers[0], slot, &honest);
                for (count, reader) in came.iter_mut().zip(readers) {
                    for frame in empties(reader) {
                        match frame.len() {
                            1514 => *count += 1,
                            _ => arrived = frame == honest,
                        }
                    }
                }
                arrived
            });
            assert!(taken, "round {round}");
        }
        stop.store(true, Ordering::SeqCst);
        let given: Vec<_> =
            floods.into_iter().map(|f| f.join().unwrap()).collect();
        for (count, reader) in came.iter_mut().zip(readers) {
            *count += empties(reader).len() as u64;
        }
        (given, came)
    });
    // Each frame has come once: nothing repeats it.
    for (n, count) in came.into_iter().enumerate() {
        let to_it: u64 = given.iter().map(|given| given[READS + n]).sum();
        assert_eq!(count, to_it, "member {}", READS + n);
        assert!(count > 0);
    }
    // Those that did not read have as many as they have buffers, and no more.
    for member in &others[..READS - FLOODS] {
        assert_eq!(empties(member).len(), BUFFERS as usize);
    }
    // It is quiet now, and everybody is reached.
    for member in &all {
        let _ = empties(member);
    }
    for slot in 1..MEMBERS {
        assert!(gives(&all[0], slot, &frame(1, 60)));
        assert_eq!(empties(&all[slot as usize]), [frame(1, 60)]);
    }
}

#[test]
fn members_that_join_and_leave_disturb_nobody() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, b) = (launcher(&file, BUFFERS), launcher(&file, BUFFERS));
    eventually("they have met", || a.1.peers() + b.1.peers() == 2);
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        let come_and_go = || {
            for _ in 0..10 {
                let guest = launcher(&file, BUFFERS);
                eventually("it has met them", || guest.1.peers() >= 2);
                eventually("its frame is taken", || {
                    gives(&guest, 1, &frame(3, 60))
                });
            }
        };
        let guests = [(); 3].map(|()| s.spawn(come_and_go));
        let reads = s.spawn(|| {
            let mut came = [0_u32; 2];
            while !stop.load(Ordering::SeqCst) {
                for frame in empties(&b) {
                    came[usize::from(frame == super::frame(9, 900))] += 1;
                }
                thread::yield_now();
            }
            for frame in empties(&b) {
                came[usize::from(frame == super::frame(9, 900))] += 1;
            }
            came
        });
        let mut given = 0;
        while guests.iter().any(|guest| !guest.is_finished()) {
            given += u32::from(gives(&a, 1, &frame(9, 900)));
        }
        for guest in guests {
            guest.join().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        assert_eq!(reads.join().unwrap(), [30, given]);
        assert!(given > 0);
    });
    eventually("they are gone", || a.1.peers() + b.1.peers() == 2);
    eventually("their sockets are, too", || {
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        left == 3 // the page, and a socket of each
    });
    assert!(std::fs::read(&file).unwrap()[12..].iter().all(|&b| b == 0));
}
