//! The test of exercise 9. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson09::exercise::answer;
use lesson09::{ALL, Message};

const ME: [u8; 6] = [2, 0, 0, 0, 0, 7];
const YOU: [u8; 6] = [2, 0, 0, 0, 0, 8];
const THIRD: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn to(to: [u8; 6], text: &str) -> Message<'_> {
    Message {
        to,
        from: YOU,
        text,
    }
}

lg_guest::tests! {
    fn a_question_is_answered_to_its_sender() {
        for question in [to(ME, "hello"), to(ALL, "hello")] {
            let frame = answer(ME, &question.frame()).unwrap();
            let wanted = Message { to: YOU, from: ME, text: "re: hello" };
            assert_eq!(Message::read(&frame), Some(wanted));
        }
    }

    fn what_is_for_others_is_not() {
        assert_eq!(answer(ME, &to(THIRD, "hello").frame()), None);
        assert!(answer(THIRD, &to(THIRD, "hello").frame()).is_some());
    }

    fn two_machines_stop() {
        let first = answer(ME, &to(ALL, "hello").frame()).unwrap();
        assert_eq!(answer(YOU, &first), None);
    }

    fn foreign_frames_have_no_answer() {
        let mut frame = to(ME, "hello").frame();
        assert!(answer(ME, &frame).is_some());
        frame[12] = 8;
        assert_eq!(answer(ME, &frame), None);
    }
}
