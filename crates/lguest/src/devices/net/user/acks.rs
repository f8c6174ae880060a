//! Repeated acknowledgements of the Guest, of which passt gets few.
//!
//! passt of 2023 loses frames for which its socket has no room, and sends
//! everything behind a repeated acknowledgement again. A Guest repeats its
//! acknowledgement for each frame behind a lost one, and for each frame that
//! comes twice. So one lost frame makes passt send the same window again and
//! again: in a transfer of 20 MB, a Guest has received 974 MB. So a repeated
//! acknowledgement is held back if nothing is missing, or if it has asked for
//! that already.
//!
//! What is held back may be the last that the Guest says: it may have lost the
//! answer, too, or frames may have come twice before one was lost. passt would
//! wait for two seconds then. So if something is missing, the latest one that
//! is held back gets to passt after [`PAUSE`]. A Guest that is flooded has that
//! time to read what it has received. Only its packet is kept: the frame may be
//! as long as a frame of many segments, and there are many connections.
//!
//! passt of 2023 knows a repeated acknowledgement by its window, too, and does
//! not note a window that differs by less than 1 % from the last one. So an
//! acknowledgement that asks gets to passt [twice](ASKS): it repeats itself.

use super::packet::{ACK, Packet, TCP, packet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// After this time an acknowledgement is repeated whatever was sent: it may be
/// lost, or its answer. Each one can make passt send a window again, so this is
/// longer than a slow Guest needs for one.
const AFTER: Duration = Duration::from_millis(500);

/// How long passt is not asked again for the same.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// How often passt gets an acknowledgement that asks for what is missing.
pub(super) const ASKS: usize = 2;

/// Connections that are remembered.
const REMEMBERED: usize = 1024;

/// The flags of TCP that a bare acknowledgement has not: all but ACK, and but
/// those about congestion.
const OTHERS: u8 = 0x2F;

/// Flags that count as a byte of data: the beginning, and both ends.
const BEGINNING: u8 = 0x02;
const BOTH_ENDS: u8 = 0x03;

/// What was said last in each connection.
pub(super) struct Acks {
    hasher: RandomState,
    last: Vec<Option<Last>>,
    /// When the first one is due of the acknowledgements that wait.
    due: Option<Instant>,
}

/// A connection. Numbers are those of passt's next byte.
struct Last {
    name: u64,
    /// What the Guest has acknowledged last, and when: the number, and the
    /// window.
    said: Option<(u32, [u8; 2], Instant)>,
    /// When it has last asked for what is missing there.
    asked: Option<Instant>,
    /// The latest one that is held back, and since when one is.
    held: Option<(Vec<u8>, Instant)>,
    /// The end of what passt has sent.
    end: Option<u32>,
    /// The end when passt has last sent frames again, and how many that the
    /// Guest has not acknowledged again.
    twice: Option<u32>,
    again: u32,
}

impl Last {
    fn new(name: u64) -> Self {
        Self {
            name,
            said: None,
            asked: None,
            held: None,
            end: None,
            twice: None,
            again: 0,
        }
    }
}

impl Acks {
    pub(super) fn new() -> Self {
        let last = std::iter::repeat_with(|| None).take(REMEMBERED).collect();
        let hasher = RandomState::new();
        Self {
            hasher,
            last,
            due: None,
        }
    }

    /// passt has sent `frame` to the Guest.
    pub(super) fn saw(&mut self, frame: &[u8]) {
        let Some((packet, tcp)) = segment(frame) else {
            return;
        };
        let data = packet.payload.len() - tcp.header
            + (tcp.flags & BOTH_ENDS).count_ones() as usize;
        let Ok(data) = u32::try_from(data) else {
            return;
        };
        if data == 0 {
            return;
        }
        let [from, to] = packet.addresses;
        let (source, port) = tcp.ports;
        let Some(last) = self.connection(&([to, from], port, source)) else {
            return;
        };
        let end = tcp.number.wrapping_add(data);
        if tcp.flags & BEGINNING != 0 {
            // The ports may have had a connection before.
            *last = Last::new(last.name);
        }
        // Half of all numbers are behind, and half ahead.
        let is_behind = |last: u32| last.wrapping_sub(end) < 1 << 31;
        match last.end.filter(|&last| is_behind(last)) {
            Some(before) => {
                if last.twice != Some(before) {
                    last.twice = Some(before);
                    last.again = 0;
                }
                last.again = last.again.saturating_add(1);
            }
            None => last.end = Some(end),
        }
    }

    /// How often passt gets `frame`, which the Guest sends at the time `now`.
    pub(super) fn copies(&mut self, frame: &[u8], now: Instant) -> usize {
        let Some((packet, tcp)) = segment(frame) else {
            return 1;
        };
        let bare = packet.payload.len() == tcp.header
            && tcp.flags & (ACK | OTHERS) == ACK;
        if !bare {
            return 1;
        }
        let (from, to) = tcp.ports;
        let Some(last) = self.connection(&(packet.addresses, from, to)) else {
            return 1;
        };
        let number = Some(tcp.acknowledges);
        let repeats = last.said.is_some_and(|(number, window, at)| {
            number == tcp.acknowledges
                && window == tcp.window
                && now.saturating_duration_since(at) < AFTER
        });
        if !repeats {
            if last.said.map(|(number, ..)| number) != number {
                (last.asked, last.held) = (None, None);
            } else if let Some((held, _)) = &mut last.held {
                // Only the window is another one, which asks for nothing.
                packet.frame.clone_into(held);
            }
            last.said = Some((tcp.acknowledges, tcp.window, now));
            return 1;
        }
        let came_twice = number == last.twice && last.again > 0;
        last.again -= u32::from(came_twice);
        if number == last.end {
            return 0; // nothing is missing
        }
        let is_early = |at| now.saturating_duration_since(at) < PAUSE;
        if came_twice || last.asked.is_some_and(is_early) {
            let since = last.held.as_ref().map_or(now, |&(_, since)| since);
            last.held = Some((packet.frame.to_vec(), since));
            let due = since + PAUSE;
            self.due = self.due.into_iter().chain([due]).min();
            return 0;
        }
        (last.asked, last.held) = (Some(now), None);
        ASKS
    }

    /// When [`Self::release`] is to be called, if an acknowledgement waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The acknowledgements that have waited long enough: they ask.
    pub(super) fn release(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let (mut released, mut first) = (Vec::new(), None);
        for last in self.last.iter_mut().flatten() {
            let Some((frame, since)) = last.held.take() else {
                continue;
            };
            if now.saturating_duration_since(since) < PAUSE {
                last.held = Some((frame, since));
                first = first.into_iter().chain([since]).min();
                continue;
            }
            last.asked = Some(now);
            last.again = 0;
            released.push(frame);
        }
        self.due = first.map(|since| since + PAUSE);
        released
    }

    /// The connection with these ends, the Guest's first. Another one that has
    /// its place is forgotten.
    fn connection(
        &mut self,
        ends: &([[u8; 16]; 2], u16, u16),
    ) -> Option<&mut Last> {
        let name = self.hasher.hash_one(ends);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any place will do"
        )]
        let place = self.last.get_mut(name as usize % REMEMBERED)?;
        if place.as_ref().is_none_or(|last| last.name != name) {
            *place = Some(Last::new(name));
        }
        place.as_mut()
    }
}

/// The header of a segment of TCP.
struct Tcp {
    /// From, to.
    ports: (u16, u16),
    number: u32,
    acknowledges: u32,
    window: [u8; 2],
    flags: u8,
    /// Bytes of the header.
    header: usize,
}

/// The segment of TCP in a frame, if it is whole.
fn segment(frame: &[u8]) -> Option<(Packet<'_>, Tcp)> {
    let packet = packet(frame).filter(|packet| packet.protocol == TCP)?;
    let tcp = packet.payload.first_chunk::<20>()?;
    let header = usize::from(tcp[12] >> 4) * 4;
    let found = Tcp {
        ports: packet.ports()?,
        number: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        acknowledges: u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]),
        window: [tcp[14], tcp[15]],
        flags: tcp[13],
        header,
    };
    (20..=packet.payload.len())
        .contains(&header)
        .then_some((packet, found))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    impl Acks {
        /// Whether passt gets a frame.
        fn admits(&mut self, frame: &[u8], now: Instant) -> bool {
            self.copies(frame, now) > 0
        }
    }

    const GUEST: [u8; 6] = [10, 0, 2, 15, 0, 80];
    const OTHER: [u8; 6] = [10, 0, 2, 2, 0, 99];

    /// A segment from one address and port to another.
    fn frame(
        [from, to]: [[u8; 6]; 2],
        (number, acknowledged): (u32, u32),
        flags: u8,
        data: &[u8],
    ) -> Vec<u8> {
        let total = u8::try_from(40 + data.len()).unwrap();
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, total, 0, 1, 0x40, 0, 64, TCP, 0, 0]);
        frame.extend([&from[..4], &to[..4], &from[4..], &to[4..]].concat());
        frame.extend(number.to_be_bytes());
        frame.extend(acknowledged.to_be_bytes());
        frame.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(data);
        frame
    }

    /// The Guest acknowledges everything before `number`.
    pub(in super::super) fn ack(number: u32) -> Vec<u8> {
        frame([GUEST, OTHER], (1, number), ACK, &[])
    }

    /// passt sends a byte.
    pub(in super::super) fn byte(number: u32) -> Vec<u8> {
        frame([OTHER, GUEST], (number, 1), ACK, &[7])
    }

    #[test]
    fn an_acknowledgement_asks_once_for_what_is_missing() {
        let mut acks = Acks::new();
        let now = Instant::now();
        acks.saw(&byte(u32::MAX));
        assert!(acks.admits(&ack(0), now));
        assert!(!acks.admits(&ack(0), now), "nothing is missing");
        acks.saw(&byte(0));
        acks.saw(&byte(2));
        assert_eq!(acks.copies(&ack(1), now), 1);
        assert_eq!(acks.copies(&ack(1), now), ASKS, "the byte 1 is missing");
        for n in 3..100 {
            acks.saw(&byte(n));
            assert!(!acks.admits(&ack(1), now), "it was asked for");
        }
        // passt sends all of it again, and more while the Guest is at it. If
        // that is lost, the Guest asks again.
        acks.saw(&byte(1));
        assert!(!acks.admits(&ack(1), now));
        let now = now + PAUSE;
        assert!(acks.admits(&ack(1), now));
        assert!(!acks.admits(&ack(1), now));
        for n in 1..100 {
            acks.saw(&byte(n));
        }
        acks.saw(&byte(100));
        assert!(acks.admits(&ack(100), now));
        for _ in 1..=100 {
            assert!(!acks.admits(&ack(100), now), "frames came twice");
        }
        assert!(acks.admits(&ack(100), now), "the Guest has lost byte 100");
        assert!(!acks.admits(&ack(100), now));
        assert!(acks.admits(&ack(101), now));
        // The Guest itself loses a frame.
        acks.saw(&byte(101));
        acks.saw(&byte(102));
        assert!(acks.admits(&ack(101), now + AFTER));
        assert!(
            acks.admits(&ack(101), now + AFTER),
            "the byte 101 is missing"
        );
        assert!(!acks.admits(&ack(101), now + AFTER));
        // A new one with the same ports has other numbers.
        let mut begins = byte(7);
        begins[14 + 20 + 13] |= BEGINNING;
        acks.saw(&begins);
        acks.saw(&byte(10));
        assert!(acks.admits(&ack(9), now));
        assert!(acks.admits(&ack(9), now), "the byte 9 is missing");
        // Another connection has acknowledgements of its own.
        let other = frame([GUEST, [10, 0, 2, 2, 0, 98]], (1, 9), ACK, &[]);
        assert!(acks.admits(&other, now));
        assert!(
            acks.admits(&ack(101), now + 2 * AFTER),
            "the answer is lost"
        );
    }

    #[test]
    fn an_acknowledgement_waits_if_something_is_missing() {
        let mut acks = Acks::new();
        let now = Instant::now();
        let later = now + PAUSE;
        let none: [Vec<u8>; 0] = [];
        for n in 1..10 {
            acks.saw(&byte(n));
        }
        // Nothing is missing.
        for _ in 0..3 {
            acks.admits(&ack(10), now);
        }
        assert!(acks.due().is_none());
        // All came twice, and then the Guest has lost byte 10.
        for n in 1..10 {
            acks.saw(&byte(n));
        }
        acks.saw(&byte(11));
        assert!(!acks.admits(&ack(10), now));
        assert!(acks.due().is_some());
        assert_eq!(acks.release(now), none, "it may come yet");
        assert!(acks.due().is_some());
        assert_eq!(acks.release(later), [ack(10)]);
        assert!(acks.due().is_none());
        // passt has been asked, and its answer may be lost, too.
        assert!(!acks.admits(&ack(10), later));
        assert_eq!(acks.release(later + PAUSE), [ack(10)]);
        // Another window asks for nothing, and the latest one waits.
        assert!(!acks.admits(&ack(10), later + PAUSE));
        let mut wider = ack(10);
        wider[14 + 20 + 14] += 1;
        assert!(acks.admits(&wider, later + PAUSE));
        assert_eq!(acks.release(later + 2 * PAUSE), [wider.clone()]);
        // It has come.
        let later = later + 2 * PAUSE;
        assert!(!acks.admits(&wider, later));
        assert!(acks.admits(&ack(12), later));
        assert_eq!(acks.release(later + PAUSE), none);
        assert!(acks.due().is_none());
    }

    #[test]
    fn what_is_held_back_ends_with_its_packet() {
        let mut acks = Acks::new();
        let now = Instant::now();
        acks.saw(&byte(1));
        acks.saw(&byte(3));
        let mut long = ack(2);
        long.resize(crate::devices::net::FRAME_MOST, 7);
        for _ in 0..3 {
            acks.admits(&long, now);
        }
        let held = |acks: &Acks| {
            let mut last = acks.last.iter().flatten();
            let (held, _) = last.find_map(|last| last.held.clone()).unwrap();
            held
        };
        assert_eq!(held(&acks), ack(2));
        // Another window takes its place.
        long[14 + 20 + 14] += 1;
        assert!(acks.admits(&long, now));
        assert_eq!(held(&acks), long[..ack(2).len()]);
    }

    #[test]
    fn what_says_more_than_an_acknowledgement_is_never_held_back() {
        let mut acks = Acks::new();
        let now = Instant::now();
        let ends = [GUEST, OTHER];
        let mut no_header = ack(7);
        no_header[14 + 20 + 12] = 0;
        for frame in [
            frame(ends, (1, 7), ACK, b"data"),
            frame(ends, (1, 7), ACK | 1, &[]), // the end
            frame(ends, (1, 7), ACK | 2, &[]), // the answer to a beginning
            frame(ends, (1, 7), ACK | 4, &[]), // a refusal
            frame(ends, (1, 7), 0, &[]),       // none
            ack(7)[..40].to_vec(),             // cut
            no_header,
            vec![7; 60],
        ] {
            for _ in 0..10 {
                assert!(acks.admits(&frame, now), "{frame:?}");
            }
            acks.saw(&frame);
        }
    }

    /// A connection to the Guest of one byte a segment, as passt of 2023 serves
    /// it.
    #[derive(Default)]
    struct Transfer {
        /// What the socket loses, and what the Guest does, at first.
        lost: [BTreeSet<u32>; 2],
        /// passt has sent so many, has come so far, and knows that the Guest
        /// has these.
        sent: u32,
        next: u32,
        acknowledged: u32,
        /// The Guest has all bytes before this one, and some behind it.
        came: u32,
        early: BTreeSet<u32>,
        /// Acknowledgements that passt has not read yet.
        acks: Vec<u32>,
    }

    impl Transfer {
        const BYTES: u32 = 5000;
        const WINDOW: u32 = 100;

        /// passt sends what the window has room for, and then the Guest takes
        /// it.
        fn send(&mut self, acks: &mut Acks, now: Option<Instant>) {
            let end = Self::BYTES.min(self.acknowledged + Self::WINDOW);
            let mut frames = Vec::new();
            for n in self.next.max(self.acknowledged)..end {
                self.next = n + 1;
                self.sent += 1;
                if !self.lost[0].remove(&n) {
                    acks.saw(&byte(n));
                    frames.push(n);
                }
            }
            frames.retain(|n| !self.lost[1].remove(n));
            for n in frames {
                self.early.insert(n);
                while self.early.remove(&self.came) {
                    self.came += 1;
                }
                let came = self.came;
                if now.is_none_or(|now| acks.admits(&ack(came), now)) {
                    self.acks.push(came);
                }
            }
        }

        /// passt reads some acknowledgements.
        fn read(&mut self, some: usize) {
            let some = self.acks.len().min(some);
            let mut repeated = false;
            for n in self.acks.drain(..some) {
                // The last one of them decides.
                repeated = n == self.acknowledged;
                self.acknowledged = n;
            }
            if repeated {
                self.next = self.acknowledged;
            }
        }
    }

    /// How many bytes passt sends until the Guest has all, or [`STORM`], if it
    /// reads `some` acknowledgements at once. They are held back if there is a
    /// time.
    fn sent(lost: [&[u32]; 2], some: usize, mut now: Option<Instant>) -> u32 {
        let mut transfer = Transfer {
            lost: lost.map(|lost| lost.iter().copied().collect()),
            ..Transfer::default()
        };
        let mut acks = Acks::new();
        while transfer.came < Transfer::BYTES && transfer.sent < STORM {
            transfer.send(&mut acks, now);
            if transfer.acks.is_empty()
                && let Some(now) = &mut now
            {
                *now += PAUSE;
                let late = acks.release(*now);
                let numbers = late.iter().map(|frame| segment(frame).unwrap());
                transfer
                    .acks
                    .extend(numbers.map(|(_, tcp)| tcp.acknowledges));
            }
            assert!(!transfer.acks.is_empty(), "passt waits for its timer");
            transfer.read(some);
        }
        transfer.sent
    }

    const STORM: u32 = 20 * Transfer::BYTES;

    #[test]
    fn a_lost_frame_costs_a_window_and_not_a_storm() {
        let lost = &[20, 21, 22, 1000, 3000, 3050];
        for some in [1, 3, 10, 50, 1000] {
            for lost in [[&lost[..], &[]], [&[], lost], [lost, &[500, 4000]]] {
                let few = sent(lost, some, Some(Instant::now()));
                let most = Transfer::BYTES + 6 * Transfer::WINDOW;
                assert!(few <= most, "{few} with {lost:?} and {some}");
            }
        }
        let all = sent([lost, &[]], 10, None);
        assert!(all >= STORM, "{all}: the model of passt is too good");
    }
}
