//! The network for smoltcp: TCP/IP above frames.
//!
//! The protocols are smoltcp's, and the tasks that move frames are the Guest's.

use super::Net;
use lg_abi::device::NET_FRAME_MAX;
use smoltcp::phy::{
    self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium,
};
use smoltcp::time::Instant;

/// The driver, as smoltcp needs it.
pub struct Phy<'net>(pub &'net Net);

/// A frame that has come.
#[doc(hidden)]
pub struct Incoming<'net>(&'net Net);

/// Room for a frame to send.
#[doc(hidden)]
pub struct Outgoing<'net>(&'net Net);

impl<'net> phy::Device for Phy<'net> {
    type RxToken<'a>
        = Incoming<'net>
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'net>
    where
        Self: 'a;

    fn receive(
        &mut self,
        _: Instant,
    ) -> Option<(Incoming<'net>, Outgoing<'net>)> {
        self.0
            .has_frame()
            .then_some((Incoming(self.0), Outgoing(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'net>> {
        Some(Outgoing(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = NET_FRAME_MAX as usize;
        if !self.0.needs_checksums() {
            capabilities.checksum = ChecksumCapabilities::ignored();
            // A machine may check these checksums, unlike a Guest, and so does
            // a later Guest: its Launcher completes those of TCP and UDP only.
            capabilities.checksum.icmpv4 = Checksum::Tx;
            capabilities.checksum.ipv4 = Checksum::Tx;
        }
        capabilities
    }
}

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        let mut look = Some(look);
        let result = self.0.receive(|frame| look.take().map(|l| l(frame)));
        match (result.flatten(), look) {
            (Some(result), _) => result,
            // The buffer was there when the token was made.
            (None, Some(look)) => look(&[]),
            (None, None) => unreachable!("the closure was taken and returned"),
        }
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.send(len, f)
    }
}
