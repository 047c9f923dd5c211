//! Every variable that the function reads, at its edge: what is good, what is nothing, and what is malformed, said to the real
//! executable. What a library would have taken for "no proxy", "not FIPS" or "no further authority" is among it.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[allow(dead_code, reason = "tests/bad_input.rs uses the rest")]
#[path = "bad_input/case.rs"]
mod case;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use case::{add_good_secret, check_variable};
use emulator::Clock;
use testbed::Executable;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a row of the README's table has to mean.
struct Row {
    variables: &'static [&'static str],
    /// Words of what it accepts.
    accepts: &'static str,
    good: &'static [&'static str],
    malformed: &'static [&'static str],
    /// Without it nothing works.
    needed: bool,
}

const fn row(
    variables: &'static [&'static str],
    accepts: &'static str,
    good: &'static [&'static str],
    malformed: &'static [&'static str],
) -> Row {
    Row { variables, accepts, good, malformed, needed: false }
}

const HOURS: &[&str] = &["0", "721", "-1", "1.5", "24h", "+24", " ", "1e1", "\u{661}", "0x18"];
const DAYS: &[&str] = &["13", "366", "1y", "99999999999999999999"];
const SERVICES: &[&str] = &[
    "127.0.0.1:8080",
    "app.kosli.com",
    "http://vpce-1.example.com",
    "http://10.0.0.1",
    "http://localhost.evil.example",
    "ftp://127.0.0.1",
    " https://vpce-1.example.com",
    "https://vpce-1.example.com ",
    "https://vpce 1.example.com",
    "https://vpce-1.example.com/path",
    "https://user@vpce-1.example.com",
    "https://vpce-1.example.com:99999",
    "https:/vpce-1.example.com",
];
const SWITCHES: &[&str] = &["1", "yes", "on", "tru", " true", "true ", "0", "no", "TRUE!"];
const PROXIES: &[&str] = &[
    " http://proxy.example.com:3128",
    "http://proxy.example.com:3128 ",
    "http://proxy.example.com:3128\n",
    "ftp://proxy.example.com",
    "socks5://proxy.example.com:1080",
    "http:/proxy.example.com:3128",
    "http:///proxy.example.com:3128",
    "http://",
    "http://DOM\\user:pw@proxy.example.com",
    "http://user:p/w@proxy.example.com",
    "http://user:p@w@proxy.example.com",
    "http://@proxy.example.com",
    "http://user:pw@",
    "http://proxy.example.com:3128/path",
    "http://proxy.example.com:port",
    "http://proxy.example.com:3128?x",
    "http://proxy.example.com:3128#x",
    "http://proxy one:3128",
    ":3128",
];
const NOT_FOR_PROXY: &[&str] = &[
    "*.amazonaws.com",
    "amazonaws.*",
    "*.",
    "**",
    "example.com:443",
    "10.0.0.1:443",
    "https://example.com",
    "example.com .amazonaws.com",
    "example.com;.amazonaws.com",
    "example.com\t.amazonaws.com",
    "example.com,",
    ",example.com",
    "example.com,,amazonaws.com",
    "example.com.",
    "example..com",
    ".",
    "10.0.0.0/33",
    "10.0.0.0/",
    "10.0.0.0/+8",
    "fd00::/129",
    "[::1]",
    "127.1",
    "0x7f.0.0.1",
    "b\u{fc}cher.example",
    "example.com/path",
    "example.com,*.amazonaws.com",
];

const ROWS: &[Row] = &[
    row(
        &["KOSLI_HOST"],
        "https://",
        // Its own address is the emulator's; another one is asked by tests/hostile_kosli.rs.
        &[],
        SERVICES,
    ),
    row(&["KOSLI_ADMIN_SECRET_ID"], "the name or the ARN of a secret", &[], &["has space", "a\tb", "\u{e9}", " "]),
    row(
        &["KOSLI_SERVICE_ACCOUNTS"],
        "comma-separated org/name patterns",
        &["acme/good", "*/*", "other/x, acme/g*"],
        &["acme", "acme/ci,", "acme/c i", "/", ",", "acme/ci;acme/good"],
    ),
    row(&["KOSLI_GRACE_PERIOD_HOURS"], "a whole number of hours from 1 to 720", &["1", "720", "024"], HOURS),
    row(
        &["KOSLI_REVOKE_OLD_KEY"],
        "after-grace-period or immediately",
        &["after-grace-period", "immediately"],
        &["now", "Immediately", "true"],
    ),
    row(&["KOSLI_KEY_TTL_DAYS"], "a whole number of days from 14 to 365", &["14", "365"], DAYS),
    row(
        &["AWS_LAMBDA_LOG_LEVEL"],
        "TRACE, DEBUG, INFO, WARN, ERROR or FATAL",
        &["TRACE", "debug", "INFO", "Warn", "ERROR", "FATAL"],
        &["WARNING", "verbose", " INFO", "0", "OFF"],
    ),
    row(&["AWS_LAMBDA_LOG_FORMAT"], "Text or JSON", &["Text", "JSON", "json"], &["XML", "JSON ", "plain", "true"]),
    Row {
        variables: &["AWS_REGION"],
        accepts: "the code of an AWS region",
        good: &["us-gov-west-1", "eusc-de-east-1"],
        malformed: &["EU-WEST-1", "eu_west_1", "eu-west-1 ", "eu-west-1.", "-", "eu--west-1", "evil.example/"],
        needed: true,
    },
    row(
        &["AWS_DEFAULT_REGION"],
        "the code of an AWS region",
        &["us-gov-west-1"],
        // The other one is set, and counts; this one has to be well-formed all the same.
        &["EU-WEST-1", "eu west 1"],
    ),
    Row {
        variables: &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        accepts: "one run of visible ASCII",
        good: &["made-up"],
        malformed: &["made up", " made-up", "made-up\n", "\u{e9}"],
        needed: true,
    },
    row(&["AWS_SESSION_TOKEN"], "one run of visible ASCII", &["made-up"], &["made up", "made-up\n", "\u{e9}"]),
    row(
        &["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"],
        "https:// address",
        // The second is not asked where the first is set.
        &[],
        SERVICES,
    ),
    row(
        &["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"],
        "true or false",
        &["false", "False", "FALSE"],
        SWITCHES,
    ),
    row(
        &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        "http:// or https://, host and port",
        // Nobody listens there, and nobody is asked: http goes without.
        &[
            "http://127.0.0.1:1",
            "https://127.0.0.1:1/",
            "127.0.0.1:1",
            "http://user:p%5C%40w@proxy.example.com",
            "HTTP://[::1]:1",
        ],
        PROXIES,
    ),
    row(
        &["NO_PROXY", "no_proxy"],
        "hosts, separated by commas",
        &["*", "example.com, .amazonaws.com,10.0.0.0/8,10.1.2.3,::1,fd00::/8,localhost,my_host.EXAMPLE"],
        NOT_FOR_PROXY,
    ),
    row(&["SSL_CERT_FILE"], "the name of a PEM file", &[], &["/nowhere/certificates.pem", "/", "certificates"]),
];

/// How many functions run at once.
const SIDE_BY_SIDE: usize = 16;

/// Runs all of them, several at a time.
async fn side_by_side(checks: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let room = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut running = JoinSet::new();
    for check in checks {
        let room = room.clone();
        running.spawn(async move {
            let _permit = room.acquire_owned().await;
            check.await;
        });
    }
    running.join_all().await;
}

/// With this value everything works.
async fn works(variable: &'static str, value: &'static str) {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &[(variable, value)]).await;
    let good = add_good_secret(&world).await;
    let answer = world.invoke(&good).await.unwrap_or_else(|error| panic!("{variable}={value}: {error}"));
    assert_eq!(answer["outcome"], "tested", "{variable}={value}");
    world.end().await;
}

#[test]
fn every_row_of_the_readmes_table_is_known_here() {
    let readme = include_str!("../README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("Configuration\n")).unwrap();
    let table =
        section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let documented: BTreeSet<&str> = table
        .flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect::<Vec<_>>())
        .collect();
    let known: BTreeSet<&str> = ROWS.iter().flat_map(|row| row.variables).copied().collect();
    assert_eq!(documented, known);
    for row in ROWS {
        assert!(!row.malformed.is_empty(), "{:?}", row.variables);
    }
}

#[tokio::test]
async fn good_values_and_empty_ones_work() {
    let mut values = Vec::new();
    for row in ROWS {
        for variable in row.variables {
            values.extend(row.good.iter().map(|value| (*variable, *value)));
            // The emulator's own address would be unset with it.
            if !row.needed && !["KOSLI_HOST", "AWS_ENDPOINT_URL_SECRETS_MANAGER"].contains(variable) {
                values.push((variable, ""));
            }
        }
    }
    side_by_side(values.into_iter().map(|(variable, value)| works(variable, value))).await;
}

#[tokio::test]
async fn a_malformed_value_is_said_to_every_invocation() {
    let values = ROWS.iter().flat_map(|row| {
        row.variables
            .iter()
            .flat_map(move |variable| row.malformed.iter().map(move |value| (variable, value, row.accepts)))
    });
    side_by_side(values.map(|(variable, value, accepts)| check_variable(variable, value, accepts))).await;
}

/// Without them the SDK finds out only when it is to send something, and asks again and again.
#[tokio::test]
async fn what_lambda_sets_by_itself_is_missed_at_once() {
    let needed = ROWS.iter().filter(|row| row.needed).flat_map(|row| row.variables);
    side_by_side(needed.map(|variable| check_variable(variable, "", "is not set"))).await;
}

/// The SDK has rules of its own about that, which it goes by when it is to send something.
#[tokio::test]
async fn a_switch_and_an_endpoint_exclude_each_other() {
    for switch in ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"] {
        for value in ["true", "True", "TRUE"] {
            check_variable(switch, value, "AWS_ENDPOINT_URL_SECRETS_MANAGER").await;
        }
    }
}

/// A value in another encoding is one that nobody has written.
#[test]
fn what_is_not_unicode_is_malformed() {
    for variable in ["KOSLI_HOST", "KOSLI_ADMIN_SECRET_ID", "HTTPS_PROXY", "AWS_SESSION_TOKEN"] {
        let value = OsString::from_vec(b"https://app.kosli.com\xff".to_vec());
        let output = answer_of(&[(variable, &value)]);
        assert!(output.contains("InvalidConfiguration") && output.contains(variable), "{variable}: {output}");
    }
}

#[test]
fn a_name_that_nobody_knows_is_warned_of() {
    for (name, warned) in [
        ("KOSLI_GRACE_PERIOD_HOUR", true),
        ("KOSLI_HTTP_PROXY", true),
        ("kosli_host", true),
        ("KOSLI_ORG", false),
        ("KOSLI_API_TOKEN", false),
    ] {
        let output = answer_of(&[(name, OsStr::new("made-up"))]);
        assert_eq!(output.contains(&format!("The environment variable {name} is unknown")), warned, "{name}: {output}");
    }
}

/// What the executable writes to its log and answers to one event, in an environment that is not even text.
fn answer_of(variables: &[(&str, &OsStr)]) -> String {
    let runtime = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut function = Command::new(env!("CARGO_BIN_EXE_kosli-key-rotation"))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime.local_addr().unwrap().to_string())
        .envs([("AWS_LAMBDA_FUNCTION_NAME", "made-up"), ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")])
        .envs([("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"), ("AWS_REGION", "eu-west-1")])
        .envs([("AWS_ACCESS_KEY_ID", "made-up"), ("AWS_SECRET_ACCESS_KEY", "made-up")])
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = runtime.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut asked = [0; 4_096];
    assert!(stream.read(&mut asked).unwrap() > 0);
    let event = "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: made-up\r\nLambda-Runtime-Deadline-Ms: 4102444800000\r\n\
                 Lambda-Runtime-Invoked-Function-Arn: made-up\r\nContent-Length: 4\r\n\r\nnull";
    stream.write_all(event.as_bytes()).unwrap();
    let length = stream.read(&mut asked).unwrap();
    function.kill().unwrap();
    let log = function.wait_with_output().unwrap().stdout;
    String::from_utf8_lossy(&log).into_owned() + &String::from_utf8_lossy(&asked[..length])
}

/// A file for a test, gone with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("kosli-key-rotation-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &'static str {
        self.0.to_str().unwrap().to_owned().leak()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file without a certificate that can be used would be found out only by a handshake, and by its other side's certificate.
#[tokio::test]
async fn a_file_of_authorities_that_is_none() {
    let made_up = rcgen::generate_simple_self_signed(["kosli.example".to_owned()]).unwrap();
    let (pem, key) = (made_up.cert.pem(), made_up.signing_key.serialize_pem());
    let with_bom = format!("\u{feff}{pem}");
    let utf_16: Vec<u8> = [0xff, 0xfe].into_iter().chain(pem.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let trusted = pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let indented = format!("{pem}  {}", pem.replace('\n', "\n  "));
    let without_end = format!("{pem}{}", pem.replace("-----END CERTIFICATE-----", ""));
    let files = [
        ("empty", Vec::new(), "it is empty"),
        ("blank", b"\n \n".to_vec(), "there is no certificate in it"),
        ("words", b"certificates".to_vec(), "there is no certificate in it"),
        ("der", made_up.cert.der().to_vec(), "openssl x509 -inform der"),
        ("key", key.clone().into_bytes(), "there is no certificate in it"),
        ("bom", with_bom.into_bytes(), "byte order mark"),
        ("utf-16", utf_16, "UTF-16"),
        ("trusted", trusted.clone().into_bytes(), "TRUSTED CERTIFICATE"),
        ("second-trusted", (pem.clone() + &trusted).into_bytes(), "TRUSTED CERTIFICATE"),
        ("indented", indented.into_bytes(), "does not begin at the line's start"),
        ("without-end", without_end.into_bytes(), "its section 2"),
        ("not-base64", pem.replace("MII", "!!!").into_bytes(), "is not base64"),
        ("dashes", pem.replace("CERTIFICATE-----", "CERTIFICATE---").into_bytes(), "five dashes"),
        ("no-certificate", pem.replace("\nMII", "\nAII").into_bytes(), "certificate number 1 is none"),
    ];
    let files = files.map(|(name, text, words)| (File::new(name, &text), words));
    side_by_side(files.iter().map(|(file, words)| check_variable("SSL_CERT_FILE", file.path(), words))).await;

    let crlf = pem.replace('\n', "\r\n");
    let good = [
        ("one", pem.clone()),
        ("two", pem.clone() + &pem),
        ("with-key", key + &pem),
        ("crlf", crlf),
        ("comment", format!("# ours\n{pem}")),
    ];
    let good = good.map(|(name, text)| File::new(name, text.as_bytes()));
    side_by_side(good.iter().map(|file| works("SSL_CERT_FILE", file.path()))).await;
}
