//! A point's disks as NBD exports: the adapter between the processor's views and capture's front end, which do not know
//! each other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use farshore_capture::device::Extent;
use farshore_capture::engine::{self, EngineKind};
use farshore_capture::server::{ExportPlan, LaneParts, Listen, Server, ServerBuilder};
use farshore_capture::sync_device::{Blocking, SyncDevice};
use farshore_changelog::ids::DiskName;
use farshore_changelog::units::ByteRange;
use farshore_processor::view::{ReadDisk, ViewDisk};

use crate::access::AccessArgs;
use crate::failure::Next;
use crate::stop;

/// A view's disk as the front end wants it.
pub struct ServedDisk(ViewDisk);

impl Blocking for ServedDisk {
    fn size(&self) -> u64 {
        self.0.size_bytes()
    }

    fn fast_zero(&self) -> bool {
        true
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, len: u64, _no_hole: bool) -> io::Result<()> {
        self.0.zero(offset, len)
    }

    fn trim_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.trim(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let range = ByteRange { start: offset, end: offset.saturating_add(len) };
        let extents = self.0.extents(range)?;
        Ok(extents.into_iter().map(|e| Extent { len: e.range.len(), hole: e.hole, zero: e.hole }).collect())
    }
}

/// A disk to be served, with its name.
pub type NamedDisk = (DiskName, ViewDisk);

/// Exports the disks on one address, the first one also as the default export.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    disks: Vec<NamedDisk>,
    listen: &Listen,
    access: &AccessArgs,
    description: &str,
) -> Result<Server<SyncDevice<ServedDisk>>> {
    let clients = access.clients();
    let access = access.plan().open([listen])?;
    let plan = |(place, _): (usize, &NamedDisk)| ExportPlan {
        listen: listen.clone(),
        place,
        description: description.to_owned(),
        clients: clients.clone(),
    };
    let plans = disks.iter().enumerate().map(plan).collect();
    let server = ServerBuilder::new().access(access).lane(plans, move || {
        let (engine, _) = engine::open(EngineKind::Auto)?;
        let device = |(owner, (name, disk)): (usize, NamedDisk)| {
            SyncDevice::new(name.to_string(), u32::try_from(owner).unwrap_or(u32::MAX), Arc::new(ServedDisk(disk)))
        };
        Ok(LaneParts { engine, devices: disks.into_iter().enumerate().map(device).collect() })
    });
    server.start().what(format!("cannot serve on {listen}"), "choose another --listen, such as unix:/tmp/point.sock")
}

/// Serves until told to stop.
///
/// # Errors
/// When the server ends by itself, or does not end well.
pub fn serve_until(server: Server<SyncDevice<ServedDisk>>, stop: &AtomicBool) -> Result<()> {
    stop::wait_while(stop, || server.is_running());
    Ok(server.stop()?)
}

/// The NBD URI of an export; with `tls`, TCP is served over TLS.
#[must_use]
pub fn uri(listen: &Listen, tls: bool, name: &str) -> String {
    match listen {
        Listen::Unix(path) => format!("nbd+unix:///{name}?socket={}", path.display()),
        Listen::Tcp(address) if tls => format!("nbds://{address}/{name}"),
        Listen::Tcp(address) => format!("nbd://{address}/{name}"),
    }
}
