#![allow(clippy::all)]
#[path = "../tests/nbd/memory.rs"]
mod memory;
use std::sync::Arc;
use farshore_capture::engine::{EngineKind, open};
use farshore_capture::listen::Listen;
use farshore_capture::server::*;
use farshore_capture::sync_device::SyncDevice;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let kind = if args[1] == "pool" { EngineKind::Pool } else { EngineKind::Uring };
    let listen = Listen::parse(&args[2], std::path::Path::new("/")).unwrap();
    let mut m = memory::Memory::new(args[3].parse::<usize>().unwrap() << 20);
    m.fast_zero = true;
    let mem = Arc::new(m);
    let plans = vec![
        ExportPlan { listen: listen.clone(), place: 0, description: "first disk".into() },
        ExportPlan { listen, place: 1, description: String::new() }];
    let server = ServerBuilder::new().lane(plans, move || {
        let (engine, _) = open(kind)?;
        Ok(LaneParts { engine, devices: vec![SyncDevice::new("vda".into(), 0, mem.clone()), SyncDevice::new("vdb".into(), 1, mem)] })
    }).start().unwrap();
    println!("ready {}", server.engine(0));
    let mut l = String::new();
    std::io::stdin().read_line(&mut l).unwrap();
    server.stop().unwrap();
}
