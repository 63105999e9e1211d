//! What guests' scripts have in common (busybox sh).

/// Mounts the ext4 on `/dev/vda` and writes numbered files of random size and content: each is fsynced, then its folder, then `report NUMBER SHA256` is said, and an answer awaited, so that at the time of the report the newest flush in
/// the log is the one that made the file durable. Meanwhile another process overwrites and deletes files that nobody asks for.
pub const WRITE_FILES: &str = r#"
mount -t ext4 -o discard /dev/vda /mnt || exit 1
(
    n=0
    while true; do
        head -c $(((n * 7919) % 200000 + 1)) /dev/urandom >/mnt/noise/$((n % 20)) || exit
        rm -f /mnt/noise/$(((n * 3) % 20))
        n=$((n + 1))
        usleep 20000
    done
) &
noise=$!
echo ready
n=1
while true; do
    head -c $(((n * 104729) % 60000 + 1)) /dev/urandom >/tmp/file
    set -- $(sha256sum </tmp/file)
    dd if=/tmp/file of=/mnt/files/$n bs=16k conv=fsync 2>/dev/null || exit 1
    sync /mnt/files || exit 1
    echo "report $n $1"
    read word || exit 1
    [ "$word" = stop ] && break
    n=$((n + 1))
done
kill $noise
wait
umount /mnt
"#;

/// Mounts `/dev/vda` so that the journal replays (and says `replayed` when there was something in it), looks the file system over with `e2fsck -f -n`, and says `file NUMBER
/// SHA256` for every file.
pub const CHECK_FILES: &str = r#"
mount -t ext4 /dev/vda /mnt || exit 1
umount /mnt || exit 1
dmesg | grep -q 'EXT4-fs (vda): recovery complete' && echo replayed
e2fsck -f -n /dev/vda >&2
echo "fsck $?"
mount -t ext4 -o ro,noload /dev/vda /mnt || exit 1
cd /mnt/files || exit 1
for n in *; do
    [ -f "$n" ] || continue
    set -- $(sha256sum <$n)
    echo "file $n $1"
done
echo "checked"
cd / && umount /mnt
"#;
