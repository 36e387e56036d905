-- Adds one machine-readable line to wrk's report. wrk counts in microseconds.
local line = 'report: {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,'
  .. '"connect_errors":%d,"read_errors":%d,"write_errors":%d,"status_errors":%d,"timeouts":%d}\n'

function done(summary, latency, _)
  local failed = summary.errors
  io.write(line:format(
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    failed.connect, failed.read, failed.write, failed.status, failed.timeout))
end
