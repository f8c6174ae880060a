//! Tests of lesson 9. Each runs in a guest of its own.
#![no_std]
#![no_main]

extern crate alloc;

use lesson09::{ALL, Message};

const ME: [u8; 6] = [2, 0, 0, 0, 0, 7];

lg_guest::tests! {
    fn a_message_is_read_as_it_was_written() {
        let message = Message { to: ALL, from: ME, text: "hello" };
        let frame = message.frame();
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[12..19], *b"\x88\xB5hello");
        assert_eq!(Message::read(&frame), Some(message));
    }

    fn foreign_frames_are_no_messages() {
        let mut frame = Message { to: ALL, from: ME, text: "" }.frame();
        assert!(Message::read(&frame).is_some());
        assert_eq!(Message::read(&frame[..13]), None);
        frame[20] = 0xFF; // no text
        assert_eq!(Message::read(&frame), None);
        (frame[20], frame[12]) = (0, 8); // an IP packet
        assert_eq!(Message::read(&frame), None);
    }

    fn a_frame_is_never_too_long() {
        let text = "long ".repeat(1000);
        let frame = Message { to: ME, from: ME, text: &text }.frame();
        assert_eq!(frame.len(), 1514);
    }
}
