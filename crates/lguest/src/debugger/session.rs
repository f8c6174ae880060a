//! One session: from the connection of GDB to its end.
//!
//! gdbstub has the state of the protocol. This file gives it the bytes of GDB,
//! and what the thread says that runs the Guest.

use super::connection::{Came, Connection};
use super::inbox::News;
use super::target::{Debugged, Gone, reason};
use gdbstub::conn::Connection as _;
use gdbstub::stub::state_machine::GdbStubStateMachine as Machine;
use gdbstub::stub::{
    BaseStopReason, DisconnectReason, GdbStub, MultiThreadStopReason,
};
use lg_wire::debug::Stop;

/// How a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// GDB has gone, or let the Guest go on without it.
    Left,
    /// GDB wants the Guest killed.
    Kill,
    /// The Guest has ended.
    Ended,
}

/// Bytes of a packet, at the most. GDB is told.
const PACKET: usize = 4096;

/// Serves GDB until one side ends the session. The Guest stands, or is made to.
pub(super) fn serve(connection: Connection, guest: &mut Debugged) -> End {
    guest.inbox.set_attached(true);
    if guest.stop().is_err() {
        return End::Ended;
    }
    // A buffer of gdbstub's own would grow with a packet that never ends.
    let mut buffer = vec![0; PACKET];
    let stub = GdbStub::builder(connection)
        .with_packet_buffer(&mut buffer)
        .build();
    let Ok(stub) = stub else { return End::Left };
    let mut machine = match stub.run_state_machine(guest) {
        Ok(machine) => machine,
        Err(_) => return End::Left,
    };
    loop {
        let next = match machine {
            Machine::Idle(mut idle) => {
                let connection = idle.borrow_conn();
                match connection.wait(guest.inbox.event()) {
                    Came::Byte(byte) => idle.incoming_data(guest, byte),
                    Came::End => return End::Left,
                    Came::News => match guest.inbox.news() {
                        Some(News::Ended(_)) => return End::Ended,
                        // It stands already.
                        Some(News::Stopped(..)) | None => Ok(idle.into()),
                    },
                }
            }
            Machine::Running(mut running) => {
                let connection = running.borrow_conn();
                match connection.wait(guest.inbox.event()) {
                    Came::Byte(byte) => running.incoming_data(guest, byte),
                    Came::End => return End::Left,
                    Came::News => match guest.inbox.news() {
                        Some(News::Ended(code)) => {
                            let exited: MultiThreadStopReason<u32> =
                                BaseStopReason::Exited(code);
                            // It may be gone as well.
                            let _ = running.report_stop(guest, exited);
                            return End::Ended;
                        }
                        Some(News::Stopped(stopped, hold)) => {
                            guest.hold = Some(hold);
                            running.report_stop(guest, reason(stopped))
                        }
                        None => Ok(running.into()),
                    },
                }
            }
            Machine::CtrlCInterrupt(interrupted) => {
                // GDB has sent it before it read that the Guest has stopped.
                let stands = guest.hold.is_some();
                let stopped = match interrupt(guest) {
                    Ok(stopped) => stopped,
                    Err(Gone) => return End::Ended,
                };
                let stopped = (!stands).then_some(stopped);
                interrupted.interrupt_handled(guest, stopped)
            }
            Machine::Disconnected(mut ended) => {
                // The receipt of GDB's last packet.
                let _ = ended.borrow_conn().flush();
                return match ended.get_reason() {
                    DisconnectReason::Kill => End::Kill,
                    DisconnectReason::TargetExited(_)
                    | DisconnectReason::TargetTerminated(_) => End::Ended,
                    DisconnectReason::Disconnect => End::Left,
                };
            }
        };
        machine = match next {
            Ok(machine) => machine,
            // Bytes that are no packets, or the Guest is dead.
            Err(_) => return End::Left,
        };
    }
}

/// Stops the Guest. It may have stopped by itself at the same moment.
fn interrupt(guest: &mut Debugged) -> Result<MultiThreadStopReason<u32>, Gone> {
    let (stop, value) = (Stop::Told, 0);
    let told = crate::engine::debug::Stopped { stop, value };
    Ok(reason(guest.stop()?.unwrap_or(told)))
}
