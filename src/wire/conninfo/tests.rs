//! Whole connection strings, with the environment that they meet.

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables, "osuser", Path::new("/nonexistent/home"))
}

fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
    Conninfo::parse_in(text, &environment(&[]))
}

fn read(text: &str) -> Conninfo {
    parse(text).expect(text)
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn names(info: &Conninfo) -> Vec<String> {
    info.hosts().iter().map(Host::to_string).collect()
}

#[test]
fn both_spellings_mean_the_same() {
    let pairs = read("host=h port=1 user=u dbname=d sslmode=require connect_timeout=7");
    let uri = read("postgres://u@h:1/d?sslmode=require&connect_timeout=7");
    assert_eq!(format!("{pairs:?}"), format!("{uri:?}"));
    assert_eq!(uri.describe(), "u@h:1/d");
    assert_eq!(uri.connect_timeout(), Some(Duration::from_secs(7)));
}

#[test]
fn defaults_are_libpqs() {
    let info = read("");
    assert_eq!((info.user(), info.dbname()), ("osuser", "osuser"));
    assert!(matches!(&info.hosts()[0].address, HostAddress::Unix(_)));
    assert_eq!(info.hosts()[0].port, 5432);
    assert_eq!(info.ssl().mode, SslMode::Prefer);
    assert_eq!(info.ssl().roots, RootCertificates::None);
    assert_eq!(info.target_session(), TargetSession::Any);
    assert_eq!(info.channel_binding(), ChannelBindingMode::Prefer);
    assert_eq!(info.connect_timeout(), Some(DEFAULT_CONNECT_TIMEOUT));
    assert_eq!(read("user=u").dbname(), "u");
}

#[test]
fn the_environment_fills_what_the_string_leaves_open() {
    let variables = [
        ("PGHOST", "eh"),
        ("PGPORT", "7"),
        ("PGUSER", "eu"),
        ("PGDATABASE", "ed"),
        ("PGSSLMODE", "disable"),
        ("PGPASSWORD", "ep"),
        ("PGAPPNAME", "ea"),
    ];
    let info = Conninfo::parse_in("", &environment(&variables)).unwrap();
    assert_eq!(info.describe(), "eu@eh:7/ed");
    assert_eq!(info.ssl().mode, SslMode::Disable);
    assert_eq!(info.application_name(), Some("ea"));
    assert_eq!(info.password(&info.hosts()[0]).unwrap().text.unwrap(), b"ep");

    let info = Conninfo::parse_in("postgres://u:p@h:1/d?sslmode=require", &environment(&variables)).unwrap();
    assert_eq!(info.describe(), "u@h:1/d");
    assert_eq!(info.ssl().mode, SslMode::Require);
    assert_eq!(info.password(&info.hosts()[0]).unwrap().text.unwrap(), b"p");
}

#[test]
fn several_hosts_pair_with_one_port_or_one_each() {
    assert_eq!(names(&read("host=a,b,c")), ["a:5432", "b:5432", "c:5432"]);
    assert_eq!(names(&read("host=a,b port=1")), ["a:1", "b:1"]);
    assert_eq!(names(&read("host=a,b port=1,2")), ["a:1", "b:2"]);
    assert_eq!(names(&read("host=a,b port=,2")), ["a:5432", "b:2"]);
    assert_eq!(names(&read("postgres://a:1,b,[::1]:3/d")), ["a:1", "b:5432", "[::1]:3"]);
    assert_eq!(names(&read("host=/run/x,b port=1,2")), ["/run/x:1", "b:2"]);
    assert!(refusal("host=a,b,c port=1,2").contains("2 ports for 3 hosts"));
    assert_eq!(read("host=a,b user=u dbname=d").describe(), "u@a:5432,b:5432/d");
}

#[test]
fn hostaddr_saves_the_look_up_and_keeps_the_name() {
    let info = read("host=name hostaddr=10.0.0.1");
    let expected = HostAddress::Tcp { name: "name".to_owned(), address: Some("10.0.0.1".parse().unwrap()) };
    assert_eq!(info.hosts()[0].address, expected);
    assert_eq!(names(&read("hostaddr=::1")), ["[::1]:5432"]);
    assert!(refusal("hostaddr=name").contains("numeric"));
    assert!(refusal("host=a,b hostaddr=::1").contains("2 names"));
}

#[test]
fn a_directory_is_a_unix_socket() {
    for text in ["host=/srv/pg", "postgres://%2Fsrv%2Fpg", "postgres:///?host=/srv/pg"] {
        assert_eq!(read(text).hosts()[0].address, HostAddress::Unix("/srv/pg".into()), "{text}");
    }
    assert_eq!(read("host=@abstract").hosts()[0].address, HostAddress::Unix("@abstract".into()));
}

#[test]
fn bad_values_are_named_with_what_could_be() {
    for (text, parts) in [
        ("port=70000", ["port is \"70000\"", "1 to 65535"]),
        ("port=0", ["port is \"0\"", "1 to 65535"]),
        ("port=x", ["port is \"x\"", "1 to 65535"]),
        ("sslmode=maybe", ["sslmode is \"maybe\"", "verify-full"]),
        ("target_session_attrs=master", ["target_session_attrs", "read-write"]),
        ("channel_binding=yes", ["channel_binding", "require"]),
        ("connect_timeout=soon", ["connect_timeout", "whole number"]),
        ("keepalives_count=1000", ["keepalives_count", "127"]),
    ] {
        let message = refusal(text);
        assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
    }
}

#[test]
fn a_bad_variable_is_named_as_the_variable() {
    let message = Conninfo::parse_in("", &environment(&[("PGPORT", "x")])).unwrap_err().to_string();
    assert!(message.starts_with("PGPORT is \"x\""), "{message}");
    let message = Conninfo::parse_in("", &environment(&[("PGSERVICE", "s")])).unwrap_err().to_string();
    assert!(message.starts_with("PGSERVICE is not supported"), "{message}");
}

#[test]
fn unknown_and_unsupported_keywords_are_named() {
    assert!(refusal("hots=a").contains("unknown keyword \"hots\""));
    for keyword in ["service", "sslcrl", "requirepeer", "require_auth", "replication", "sslpassword"] {
        let message = refusal(&format!("{keyword}=x"));
        assert!(message.starts_with(&format!("{keyword} is not supported; ")), "{message}");
    }
    assert!(refusal("gssencmode=require").contains("use disable or prefer"));
    assert!(refusal("load_balance_hosts=random").contains("use disable"));
    read("gssencmode=prefer sslcompression=1 krbsrvname=postgres client_encoding=UTF8 service=''");
}

#[test]
fn sslrootcert_system_demands_the_full_check() {
    let info = read("sslrootcert=system");
    assert_eq!((info.ssl().mode, &info.ssl().roots), (SslMode::VerifyFull, &RootCertificates::System));
    assert!(refusal("sslrootcert=system sslmode=require").contains("verify-full"));
}

#[test]
fn verification_needs_a_root() {
    assert!(refusal("sslmode=verify-ca").contains("sslrootcert="));
    assert_eq!(read("sslmode=verify-ca sslrootcert=/x").ssl().roots, RootCertificates::File("/x".into()));
    assert_eq!(read("sslmode=require sslrootcert=/nonexistent/x").ssl().roots, RootCertificates::None);
}

#[test]
fn libpqs_default_certificates_are_found() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".postgresql");
    std::fs::create_dir(&directory).unwrap();
    for file in ["root.crt", "postgresql.crt"] {
        std::fs::write(directory.join(file), "").unwrap();
    }
    let info = Conninfo::parse_in("", &Environment::of(&[], "u", home.path())).unwrap();
    assert_eq!(info.ssl().roots, RootCertificates::File(directory.join("root.crt")));
    let (certificate, key) = info.ssl().client.clone().unwrap();
    assert_eq!((certificate, key), (directory.join("postgresql.crt"), directory.join("postgresql.key")));
}

#[test]
fn direct_negotiation_needs_encryption() {
    assert_eq!(read("sslnegotiation=direct sslmode=require").ssl().negotiation, SslNegotiation::Direct);
    assert!(refusal("sslnegotiation=direct").contains("sslmode=require"));
}

#[test]
fn tls_versions_lie_between_the_bounds() {
    let versions = |text: &str| (read(text).ssl().tls12, read(text).ssl().tls13);
    assert_eq!(versions(""), (true, true));
    assert_eq!(versions("ssl_min_protocol_version=TLSv1.3"), (false, true));
    assert_eq!(versions("ssl_max_protocol_version=TLSv1.2"), (true, false));
    assert_eq!(versions("ssl_min_protocol_version=TLSv1"), (true, true));
    assert!(refusal("ssl_max_protocol_version=TLSv1.1").contains("neither"));
    assert!(refusal("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2").contains("neither"));
}

#[test]
fn keepalives_and_timeouts() {
    let keepalive =
        *read("keepalives_idle=5 keepalives_interval=2 keepalives_count=4 tcp_user_timeout=1500").keepalive();
    assert_eq!((keepalive.idle, keepalive.interval), (Duration::from_secs(5), Duration::from_secs(2)));
    assert_eq!((keepalive.count, keepalive.user_timeout), (4, Some(Duration::from_millis(1500))));
    assert!(!read("keepalives=0").keepalive().enabled && read("keepalives=1").keepalive().enabled);
    assert_eq!(read("connect_timeout=0").connect_timeout(), None);
    assert_eq!(read("connect_timeout=-1").connect_timeout(), None);
}

#[test]
fn the_password_is_never_shown() {
    let info = read("postgres://u:sesame@h/d");
    assert!(!format!("{info:?}{}", info.describe()).contains("sesame"));
    assert!(!format!("{:?}", info.password(&info.hosts()[0])).contains("sesame"));
}

#[test]
fn a_password_file_goes_before_every_other_source() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from the file\n").unwrap();
    let info = read("password=inline").with_password_file(file.path());
    assert_eq!(info.password(&info.hosts()[0]).unwrap().text.unwrap(), b"from the file");
}

#[test]
fn the_passfile_is_searched_per_host() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".pgpass");
    std::fs::write(&path, "a:*:*:*:pa\nb:*:*:*:pb\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let info = Conninfo::parse_in("host=a,b", &Environment::of(&[], "u", home.path())).unwrap();
    let passwords: Vec<_> = info.hosts().iter().map(|host| info.password(host).unwrap().text.unwrap()).collect();
    assert_eq!(passwords, [b"pa", b"pb"]);
}

#[test]
fn another_host_or_database_keeps_the_rest() {
    let info = read("postgres://u:p@h,i/d").with_host_port("127.0.0.1", 9).with_dbname("e");
    assert_eq!(info.describe(), "u@127.0.0.1:9/e");
    assert_eq!(info.password(&info.hosts()[0]).unwrap().text.unwrap(), b"p");
}
