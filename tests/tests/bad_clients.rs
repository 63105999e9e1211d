//! Clients that break the protocol. Each gets the error that the protocol names, or is hung up on where the protocol leaves no
//! answer, and disturbs nobody: a well-behaved connection works throughout, and the log goes on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::client::{Client, Socket, command, error, go_data, option, option_reply, request};
use farshore_tests::pattern::Rng;
use farshore_tests::site::{Site, SiteSpec};

const DISK_BYTES: u64 = 32 << 20;
/// The longest a request of the well-behaved connection may take, whatever others do.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The connection that nothing may disturb.
struct Good {
    client: Client,
    rounds: u64,
}

impl Good {
    fn new(socket: &Path) -> Self {
        Self { client: Client::open(socket, "vda").unwrap(), rounds: 0 }
    }

    /// Writes, reads and flushes, all over the disk's first MiB.
    #[track_caller]
    fn works(&mut self) {
        let began = clock::mono();
        for _ in 0..8 {
            self.rounds += 1;
            let at = self.rounds * 4097 % (1 << 20);
            let data = Rng::new(self.rounds).bytes(6000);
            self.client.write(at, &data).unwrap();
            assert_eq!(self.client.read(at, 6000).unwrap(), data);
        }
        self.client.flush().unwrap();
        let took = began.elapsed();
        assert!(took < ANSWER_MAX, "a well-behaved connection was held up for {took:?}");
    }
}

/// What it is, flags, command, offset, length, payload, and the errors that may answer it.
type RequestCase<'a> = (&'a str, u16, u16, u64, u32, &'a [u8], &'a [u32]);

fn started() -> (Site, PathBuf) {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    let socket = site.disks[0].socket.clone();
    (site, socket)
}

/// What was written by the well-behaved reached the target, and the agent ends in order.
fn assert_the_log_went_on(mut site: Site) {
    let newest = site.newest();
    site.wait_shipped(newest);
    let _ = site.process_once().good();
    site.assert_equal();
    site.stop_agent();
}

#[test]
fn options_that_are_wrong_are_refused_by_name_and_the_handshake_goes_on() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let long_name = go_data(&"x".repeat(5000));
    let mut name_beyond_its_data = go_data("vda");
    name_beyond_its_data[..4].copy_from_slice(&0xffff_u32.to_be_bytes());
    let mut requests_beyond_their_data = go_data("vda");
    let last = requests_beyond_their_data.len();
    requests_beyond_their_data[last - 1] = 9;
    let not_utf8 = [&4_u32.to_be_bytes()[..], &[0xff, 0xfe, 0xfd, 0xfc], &[0, 0]].concat();

    use option_reply::{ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP};
    let cases: [(&str, u32, &[u8], &[u32]); 13] = [
        ("an option nobody knows", 0x4242, b"", &[ERR_UNSUP]),
        ("an option nobody knows, with data", 0x4242, &[7; 1000], &[ERR_UNSUP]),
        ("STARTTLS, which is not offered", 5, b"", &[ERR_UNSUP]),
        ("go without data", option::GO, b"", &[ERR_INVALID]),
        ("go cut off", option::GO, &[0, 0, 0], &[ERR_INVALID]),
        ("a name longer than its data", option::GO, &name_beyond_its_data, &[ERR_INVALID]),
        ("more information requests than there are", option::INFO, &requests_beyond_their_data, &[ERR_INVALID]),
        ("an export that is not there", option::GO, &go_data("nobody"), &[ERR_UNKNOWN]),
        ("a name that is no text", option::INFO, &not_utf8, &[ERR_UNKNOWN, ERR_INVALID]),
        ("a name longer than the protocol allows", option::GO, &long_name, &[ERR_TOO_BIG, ERR_INVALID, ERR_UNKNOWN]),
        ("list with data", option::LIST, b"data", &[ERR_INVALID]),
        ("structured reply with data", option::STRUCTURED_REPLY, b"data", &[ERR_INVALID]),
        ("contexts before structured replies", option::SET_META_CONTEXT, &[0; 8], &[ERR_INVALID]),
    ];
    let mut client = Client::greeted(&socket).unwrap();
    for (what, option, data, wanted) in cases {
        client.send_option(option, data).unwrap();
        let (kind, _) = client.option_reply(option).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(wanted.contains(&kind), "{what}: answered with {kind:#x}");
        good.works();
    }
    client.go("vda").unwrap();
    assert_eq!(client.read(0, 512).unwrap().len(), 512);
    assert_the_log_went_on(site);
}

#[test]
fn a_handshake_that_cannot_go_on_is_hung_up_on() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let hung_up = |what: &str, bytes: &[u8]| {
        let mut client = Client::greeted(&socket).unwrap();
        client.stream.write_all(bytes).unwrap();
        assert!(client.is_closed(), "{what}: the server still talks");
    };
    let mut wrong_magic = go_data("vda");
    wrong_magic.splice(0..0, [0; 16]);
    hung_up("wrong option magic", &wrong_magic);
    good.works();
    hung_up("noise", &Rng::new(1).bytes(100_000));
    good.works();
    let mut export_name = farshore_tests::client::OPTION_MAGIC.to_be_bytes().to_vec();
    export_name.extend([0, 0, 0, 1, 0, 0, 0, 6]);
    export_name.extend(b"nobody");
    hung_up("EXPORT_NAME of an unknown export, which has no error answer", &export_name);
    good.works();

    // 4 GiB of option data are announced: refused at once, not waited for.
    let mut client = Client::greeted(&socket).unwrap();
    client.stream.write_all(&farshore_tests::client::OPTION_MAGIC.to_be_bytes()).unwrap();
    client.stream.write_all(&[0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]).unwrap();
    match client.option_reply(option::GO) {
        Ok((kind, _)) => assert!(kind == option_reply::ERR_TOO_BIG || kind == option_reply::ERR_INVALID, "{kind:#x}"),
        Err(_) => assert!(client.is_closed()),
    }
    good.works();

    // Client flags that nobody knows.
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.patience(ANSWER_MAX).unwrap();
    let mut greeting = [0; 18];
    std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
    stream.write_all(&0x8000_0003_u32.to_be_bytes()).unwrap();
    stream.write_all(&farshore_tests::client::OPTION_MAGIC.to_be_bytes()).unwrap();
    assert!(matches!(std::io::Read::read(&mut stream, &mut greeting), Ok(0) | Err(_)));
    good.works();

    // Half a handshake, then silence, many times over; these stay open to the end.
    let mut silent = Vec::new();
    for n in 0..20 {
        let mut client = Client::greeted(&socket).unwrap();
        client.stream.write_all(&farshore_tests::client::OPTION_MAGIC.to_be_bytes()[..n % 8]).unwrap();
        silent.push(client);
    }
    good.works();
    assert_the_log_went_on(site);
}

#[test]
fn requests_that_are_wrong_are_answered_with_the_error_the_protocol_names() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let mut client = Client::open(&socket, "vda").unwrap();
    let size = client.size;
    assert_eq!(size, DISK_BYTES);
    use command::{BLOCK_STATUS, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
    let block = [1; 4096];
    let cases: [RequestCase; 17] = [
        ("a command nobody knows", 0, 77, 0, 0, b"", &[error::EINVAL]),
        ("a read past the end", 0, READ, size - 511, 512, b"", &[error::EINVAL]),
        ("a read far past the end", 0, READ, 1 << 62, 512, b"", &[error::EINVAL]),
        ("a read whose end is beyond 2^64", 0, READ, u64::MAX - 100, 512, b"", &[error::EINVAL]),
        ("a read of 4 GiB", 0, READ, 0, u32::MAX, b"", &[error::EINVAL, error::EOVERFLOW]),
        ("a write past the end", 0, WRITE, size - 4095, 4096, &block, &[error::ENOSPC]),
        ("a write whose end is beyond 2^64", 0, WRITE, u64::MAX - 100, 4096, &block, &[error::ENOSPC, error::EINVAL]),
        ("zeroes past the end", 0, WRITE_ZEROES, size, 1, b"", &[error::ENOSPC]),
        ("a trim past the end", 0, TRIM, size - 1, 2, b"", &[error::EINVAL, error::ENOSPC]),
        ("a trim of 4 GiB", 0, TRIM, 0, u32::MAX, b"", &[error::EINVAL, error::ENOSPC]),
        ("a read with a flag of zeroes", 2, READ, 0, 512, b"", &[error::EINVAL]),
        ("a write with a flag nobody knows", 1 << 13, WRITE, 0, 4096, &block, &[error::EINVAL]),
        ("a flush with a flag nobody knows", 1 << 13, FLUSH, 0, 0, b"", &[error::EINVAL]),
        ("a flush of a range", 0, FLUSH, 512, 512, b"", &[0, error::EINVAL]),
        ("fragments wished without structured replies", 4, READ, 0, 512, b"", &[error::EINVAL]),
        ("block status without a context", 0, BLOCK_STATUS, 0, 512, b"", &[error::EINVAL]),
        ("a resize, which is not offered", 0, 8, 0, 512, b"", &[error::EINVAL, error::ENOTSUP]),
    ];
    for (what, flags, command, offset, len, payload, wanted) in cases {
        let answered = client.ask(flags, command, offset, len, payload).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(wanted.contains(&answered), "{what}: answered with error {answered}");
        assert_eq!(client.read(0, 512).unwrap().len(), 512, "{what}: the connection goes on");
        good.works();
    }
    assert_the_log_went_on(site);
}

#[test]
fn a_request_that_leaves_no_answer_costs_its_connection_alone() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let opened = || Client::open(&socket, "vda").unwrap();

    let mut wrong_magic = opened();
    wrong_magic.stream.write_all(&[0x42; 28]).unwrap();
    assert!(wrong_magic.is_closed(), "after a wrong magic nothing can be believed");
    good.works();

    let mut reply_magic = opened();
    let mut bytes = request(0, command::READ, 1, 0, 512);
    bytes[..4].copy_from_slice(&farshore_tests::client::SIMPLE_REPLY_MAGIC.to_be_bytes());
    reply_magic.stream.write_all(&bytes).unwrap();
    assert!(reply_magic.is_closed());
    good.works();

    // A write of 4 GiB is announced: an error or the end, but never 4 GiB of patience or memory.
    let mut too_long = opened();
    too_long.send_header(0, command::WRITE, 0, u32::MAX).unwrap();
    let _ = too_long.stream.write_all(&[0; 65536]);
    match too_long.simple_reply() {
        Ok((_, answered)) => {
            assert!([error::EINVAL, error::EOVERFLOW, error::ENOSPC].contains(&answered), "{answered}")
        }
        Err(_) => assert!(too_long.is_closed()),
    }
    good.works();

    let mut goodbye = opened();
    goodbye.send_header(0, command::DISC, 0, 0).unwrap();
    let _ = goodbye.stream.write_all(&request(0, command::READ, 9, 0, 512));
    assert!(goodbye.is_closed(), "nothing is answered after a goodbye");
    good.works();

    // Noise as requests.
    let mut noise = opened();
    let _ = noise.stream.write_all(&Rng::new(2).bytes(200_000));
    assert!(noise.is_closed());
    good.works();
    assert_the_log_went_on(site);
}

#[test]
fn half_a_request_and_then_silence_holds_up_nobody() {
    let (mut site, socket) = started();
    let mut good = Good::new(&socket);
    let before = good.client.read(0, 65536).unwrap();
    // Half a header; a header; a header with half its payload, over the very range that others write.
    let mut silent = Vec::new();
    for part in [1, 27, 28, 28 + 1, 28 + 4096, 28 + 65535] {
        let mut client = Client::open(&socket, "vda").unwrap();
        let mut bytes = request(0, command::WRITE, 1, 0, 65536).to_vec();
        bytes.extend([0xee; 65536]);
        client.stream.write_all(&bytes[..part]).unwrap();
        silent.push(client);
        good.works();
    }
    // The log does not wait for them either.
    let newest = site.newest();
    site.wait_shipped(newest);
    // Some hang up in the middle, and their half writes have changed nothing.
    good.client.write(0, &before).unwrap();
    drop(silent.split_off(3));
    good.works();
    assert_eq!(good.client.read(40_000, 20_000).unwrap(), before[40_000..60_000], "half a write was written");
    // One comes back to life.
    let mut late = silent.pop().expect("one is left");
    late.stream.write_all(&[0xee; 65536]).unwrap();
    assert_eq!(late.simple_reply().unwrap().1, 0);
    assert_eq!(good.client.read(30_000, 4).unwrap(), [0xee; 4]);
    assert_the_log_went_on(site);
}

#[test]
fn half_requests_larger_than_the_ring_hold_up_nobody() {
    // The ring of a site's group has 32 MiB; these want 48.
    let (mut site, socket) = started();
    let mut good = Good::new(&socket);
    let mut silent = Vec::new();
    for n in 0..48 {
        let mut client = Client::open(&socket, "vda").unwrap();
        client.send_header(0, command::WRITE, (n % 16) << 20, 1 << 20).unwrap();
        client.stream.write_all(&[0xdd; 1000]).unwrap();
        silent.push(client);
    }
    good.works();
    let newest = site.newest();
    site.wait_shipped(newest);
    good.works();
    drop(silent);
    good.works();
    assert_the_log_went_on(site);
}

#[test]
fn a_client_that_never_reads_its_replies_holds_up_nobody() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let client = Client::open(&socket, "vda").unwrap();
        // Read requests until the server takes no more of them.
        client.stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        for n in 0..20_000 {
            match (&client.stream).write(&request(0, command::READ, n, 0, 1 << 20)) {
                Ok(28) => sent += 1,
                _ => break,
            }
            if n % 64 == 0 {
                good.works();
            }
        }
        assert!(sent > 0);
        deaf.push(client);
        good.works();
    }
    good.works();
    drop(deaf);
    good.works();
    assert_the_log_went_on(site);
}

#[test]
fn hundreds_of_idle_connections_hold_up_nobody() {
    let (site, socket) = started();
    let mut good = Good::new(&socket);
    let mut idle = Vec::new();
    for _ in 0..400 {
        // Beyond a limit the server may refuse; it may not fall over.
        match Client::open(&socket, "vda") {
            Ok(client) => idle.push(client),
            Err(_) => break,
        }
    }
    assert!(idle.len() >= 8, "only {} connections were taken", idle.len());
    good.works();
    drop(idle);
    let deadline = clock::mono() + ANSWER_MAX;
    while Client::open(&socket, "vda").is_err() {
        assert!(clock::mono() < deadline, "the places of closed connections are not free again");
        clock::sleep(Duration::from_millis(20));
    }
    good.works();
    assert_the_log_went_on(site);
}
