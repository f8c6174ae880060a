//! The channel: bounds, frames, and states.

use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether `event` was raised. Forgets it.
fn is_raised(event: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(event, PollFlags::IN)];
    let raised = poll(&mut fds, Some(&Timespec::default())).unwrap() > 0;
    let _ = rustix::io::read(event, &mut [0; 8]);
    raised
}

/// What the Guest gets.
fn given(channel: &Channel) -> Vec<u8> {
    let mut all = Vec::new();
    let take = |bytes: &[u8]| {
        all.extend_from_slice(bytes);
        Ok::<_, ()>(bytes.len())
    };
    channel.give_to_guest(take).unwrap();
    all
}

fn frame_of(stream: u32, payload: &[u8]) -> FromGuest {
    FromGuest::Frame(Frame {
        stream,
        kind: 33,
        payload: payload.to_vec(),
    })
}

#[test]
fn frames_are_cut_out_of_pieces() {
    let channel = Channel::new().unwrap();
    let bytes = [frame(1, 33, b"hello"), frame(2, 33, b"")].concat();
    for byte in &bytes[..HEADER + 4] {
        channel.put_from_guest(&[*byte]);
        assert_eq!(channel.take(), None);
    }
    assert!(is_raised(channel.news()));
    channel.put_from_guest(&bytes[HEADER + 4..]);
    assert_eq!(channel.take(), Some(frame_of(1, b"hello")));
    assert_eq!(channel.take(), Some(frame_of(2, b"")));
    assert_eq!(channel.take(), None);
}

#[test]
fn a_frame_that_is_too_long_ends_all() {
    let channel = Channel::new().unwrap();
    let most = vec![7; FRAME_MOST];
    channel.put_from_guest(&frame(1, 33, &most));
    assert_eq!(channel.take(), Some(frame_of(1, &most)));
    let len = u32::try_from(FRAME_MOST + 1).unwrap();
    channel.put_from_guest(&len.to_le_bytes());
    channel.put_from_guest(&[0; 5]);
    assert_eq!(channel.take(), Some(FromGuest::TooLong(len)));
    channel.break_off("it lies");
    channel.put_from_guest(&frame(1, 33, b"late"));
    assert_eq!(channel.take(), None);
    let refused = channel.begin_stream();
    assert_eq!(refused, Err(NoStream::Broken("it lies".into())));
}

#[test]
fn nothing_is_taken_from_a_guest_while_much_waits() {
    let channel = Channel::new().unwrap();
    let bytes = frame(1, 33, &vec![0; FRAME_MOST]);
    let mut put = 0;
    while channel.has_room_from_guest() {
        channel.put_from_guest(&bytes);
        put += 1;
    }
    assert_eq!(put, 2);
    assert!(!is_raised(channel.device_event()));
    assert!(channel.take().is_some());
    assert!(is_raised(channel.device_event()), "the device goes on");
    assert!(channel.has_room_from_guest());
}

#[test]
fn a_guest_gets_bytes_while_the_port_is_open() {
    let channel = Channel::new().unwrap();
    let start = frame(1, 16, b"start");
    assert!(channel.put_to_guest(&start));
    assert!(is_raised(channel.device_event()));
    assert_eq!(given(&channel), b"");
    channel.set_open(true);
    assert_eq!(given(&channel), start);
    // It closes the port: what was for that agent is of no use to another.
    assert!(channel.put_to_guest(&start));
    channel.put_from_guest(&frame(1, 33, b"last"));
    channel.put_from_guest(b"half");
    channel.set_open(false);
    assert!(!channel.has_room_from_guest(), "the end comes first");
    assert_eq!(channel.take(), Some(frame_of(1, b"last")));
    assert_eq!(channel.take(), Some(FromGuest::Closed));
    assert_eq!(channel.take(), None);
    channel.set_open(true);
    assert_eq!(given(&channel), b"");
    channel.put_from_guest(&frame(2, 33, b"new"));
    assert_eq!(channel.take(), Some(frame_of(2, b"new")));
}

#[test]
fn frames_to_a_guest_have_a_bound() {
    let channel = Channel::new().unwrap();
    channel.set_open(true);
    let bytes = frame(1, 19, &vec![0; FRAME_MOST]);
    let mut put = 0;
    while channel.put_to_guest(&bytes) {
        put += 1;
    }
    assert_eq!(put, 2);
    assert!(!channel.has_room_to_guest());
    let _ = is_raised(channel.news());
    assert_eq!(given(&channel).len(), put * bytes.len());
    assert!(is_raised(channel.news()), "clients go on");
}

#[test]
fn numbers_of_streams_are_not_used_again() {
    let channel = Channel::new().unwrap();
    let most = u32::try_from(STREAMS_MOST).unwrap();
    for number in 1..=most {
        assert_eq!(channel.begin_stream(), Ok(number));
    }
    assert_eq!(channel.begin_stream(), Err(NoStream::TooMany));
    channel.end_stream(3);
    assert_eq!(channel.begin_stream(), Ok(most + 1));
    assert!(!channel.streams().contains(&3));
}

#[test]
fn a_state_has_what_is_under_way() {
    let channel = Channel::new().unwrap();
    channel.set_open(true);
    channel.begin_stream().unwrap();
    let start = frame(1, 16, b"start");
    channel.put_to_guest(&start);
    // The Guest has a part of it.
    let half = |bytes: &[u8]| Ok::<_, ()>(bytes.len() / 2);
    channel.give_to_guest(half).unwrap();
    channel.put_from_guest(&frame(1, 33, b"hello")[..HEADER + 1]);
    let text = serde_json::to_string(&channel.state()).unwrap();
    let other = Channel::new().unwrap();
    other
        .restore(&serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(other.state(), channel.state());
    assert!(is_raised(other.device_event()));
    assert_eq!(given(&other), start[start.len() / 2..]);
    other.put_from_guest(&frame(1, 33, b"hello")[HEADER + 1..]);
    assert_eq!(other.take(), Some(frame_of(1, b"hello")));
    assert_eq!(other.streams(), [1]);
    assert_eq!(other.begin_stream(), Ok(2));
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let good = ChannelState {
        last: 1,
        ..ChannelState::default()
    };
    let channel = Channel::new().unwrap();
    channel.restore(&good.clone().versioned()).unwrap();
    let much = vec![0; 4 << 20];
    let many = (0..=1000).collect::<Vec<u32>>();
    for bad in [
        ChannelState {
            to_guest: much.clone(),
            ..good.clone()
        },
        ChannelState {
            from_guest: much,
            ..good.clone()
        },
        ChannelState {
            live: many,
            last: 1000,
            ..good.clone()
        },
        ChannelState {
            live: vec![2],
            ..good
        },
    ] {
        let refused = channel.restore(&bad.versioned());
        assert!(matches!(refused, Err(RestoreError::Other(_))));
    }
}
