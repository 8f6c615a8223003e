-- A wrk script: posts one fixed body for ever and prints one line of JSON at the end.
--   wrk -s post.lua URL -- BODYFILE [HEADER VALUE]...
function init(args)
    local file = assert(io.open(args[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    file:close()
    for i = 2, #args, 2 do
        wrk.headers[args[i]] = args[i + 1]
    end
    prepared = wrk.format()
end

function request()
    return prepared
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"errors":%d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
