//! The machine on which something is measured, in words.

fn first_line(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned())
}

/// Cores, memory and kernel.
#[must_use]
pub fn description() -> String {
    let cpu = first_line("/proc/cpuinfo", "model name").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = first_line("/proc/meminfo", "MemTotal").unwrap_or_default();
    format!("{cores} cores of {cpu}, {memory} of memory, Linux {}", kernel.trim())
}

/// How many tasks have wanted a core, on average over the last minute.
#[must_use]
pub fn load_average() -> String {
    let said = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    said.split_whitespace().next().unwrap_or_default().to_owned()
}
