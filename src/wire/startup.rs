//! From an open stream to a session that waits for its first query: startup message, login, parameters.
//!
//! PostgreSQL's documentation, "Message Flow: Start-up" and "SASL Authentication". The login succeeds only if the
//! server, too, has proved that it knows the password wherever SCRAM is used.

use std::collections::BTreeMap;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::conninfo::{ChannelBindingMode, Conninfo, Host, Password, PasswordSource};
use super::error::{ServerError, WireError};
use super::inbox::{Inbox, Incoming};
use super::session::TransactionStatus;
use super::tls::EndPoint;

/// What the server told about the new session.
pub(super) struct Greeting {
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) process_id: i32,
    pub(super) secret_key: i32,
    pub(super) status: TransactionStatus,
}

/// Logs in. `parameters` go before what the connection string says about the same name.
pub(super) async fn log_in<R, W>(
    inbox: &mut Inbox<R>,
    writer: &mut W,
    info: &Conninfo,
    host: &Host,
    parameters: &[(&str, &str)],
    end_point: EndPoint,
) -> Result<Greeting, WireError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let target = format!("{}@{host}/{}", info.user(), info.dbname());
    let mut output = BytesMut::new();
    frontend::startup_message(startup_parameters(info, parameters), &mut output)
        .map_err(|error| WireError::Protocol(format!("startup parameters: {error}")))?;
    let mut login = Login { inbox, writer, output, info, host, target, end_point, password: None };
    login.send().await?;
    login.authenticate().await?;
    login.greeting().await
}

/// The parameters of the startup message: the caller's, then the connection string's where the caller has none.
fn startup_parameters<'a>(info: &'a Conninfo, own: &[(&'a str, &'a str)]) -> BTreeMap<&'a str, &'a str> {
    let mut parameters = BTreeMap::from([
        ("client_encoding", "UTF8"),
        ("application_name", info.application_name().unwrap_or("pgconcord")),
        ("user", info.user()),
        ("database", info.dbname()),
    ]);
    parameters.extend(info.options().map(|options| ("options", options)));
    parameters.extend(own.iter().copied());
    parameters
}

/// The state of one login.
struct Login<'a, R, W> {
    inbox: &'a mut Inbox<R>,
    writer: &'a mut W,
    output: BytesMut,
    info: &'a Conninfo,
    host: &'a Host,
    target: String,
    end_point: EndPoint,
    /// Looked up when the server asks for it.
    password: Option<Password>,
}

/// What a login by password has shown about the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Nothing.
    None,
    /// It knows the password.
    Password,
    /// And it is the end of this very TLS channel.
    PasswordAndChannel,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Login<'_, R, W> {
    async fn send(&mut self) -> Result<(), WireError> {
        let failed = |error| WireError::io(format!("logging in to {}", self.host), error);
        self.writer.write_all(&self.output).await.map_err(failed)?;
        self.writer.flush().await.map_err(failed)?;
        self.output.clear();
        Ok(())
    }

    /// The next message that is neither a notice nor an error.
    async fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            match self.inbox.next().await? {
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let error = ServerError::read(body.fields()).map_err(|error| self.protocol(&error.to_string()))?;
                    return Err(self.refused(error));
                }
                Incoming::Message(Message::NoticeResponse(_)) => {}
                Incoming::Message(message) => return Ok(message),
                Incoming::CopyBoth => return Err(self.protocol("a copy began during the login")),
            }
        }
    }

    async fn authenticate(&mut self) -> Result<(), WireError> {
        let mut proof = Proof::None;
        loop {
            match self.receive().await? {
                Message::AuthenticationOk => return self.accept(proof),
                Message::AuthenticationCleartextPassword => {
                    self.refuse_unless_binding_is_optional("a password in clear text")?;
                    let password = self.password()?;
                    self.send_password(&password).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    self.refuse_unless_binding_is_optional("an md5 password")?;
                    let password = self.password()?;
                    let hash = md5_hash(self.info.user().as_bytes(), &password, body.salt());
                    self.send_password(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => proof = self.scram(&body).await?,
                Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5 => {
                    return Err(self.problem(
                        "the server asks for Kerberos (GSSAPI or SSPI), which is not supported; let pg_hba.conf ask \
                         this role for scram-sha-256 or a certificate",
                    ));
                }
                _ => return Err(self.protocol("an unexpected message during the login")),
            }
        }
    }

    fn accept(&self, proof: Proof) -> Result<(), WireError> {
        if self.info.channel_binding() == ChannelBindingMode::Require && proof != Proof::PasswordAndChannel {
            return Err(self.problem(
                "channel_binding=require, and the server let us in without SCRAM; let pg_hba.conf ask for \
                 scram-sha-256 on hostssl lines",
            ));
        }
        Ok(())
    }

    fn refuse_unless_binding_is_optional(&self, what: &str) -> Result<(), WireError> {
        if self.info.channel_binding() == ChannelBindingMode::Require {
            return Err(self.problem(&format!(
                "channel_binding=require, and the server asks for {what}; let pg_hba.conf ask for scram-sha-256"
            )));
        }
        Ok(())
    }

    async fn send_password(&mut self, text: &[u8]) -> Result<(), WireError> {
        frontend::password_message(text, &mut self.output)
            .map_err(|_| self.problem("the password holds a zero byte"))?;
        self.send().await
    }

    /// The password, or an error that says where to put one.
    fn password(&mut self) -> Result<Vec<u8>, WireError> {
        let found = self
            .info
            .password(self.host)
            .map_err(|error| self.problem(&format!("the password file cannot be read: {error}")))?;
        let text = found.text.clone().filter(|text| !text.is_empty());
        let source = found.source.clone();
        self.password = Some(found);
        text.ok_or_else(|| {
            let looked = match source {
                PasswordSource::Nowhere => String::new(),
                source => format!(" (looked in {source})"),
            };
            self.problem(&format!(
                "the server asks for a password and none was found{looked}; set password_file, PGPASSWORD, or add a \
                 line to ~/.pgpass"
            ))
        })
    }

    /// The whole of SCRAM-SHA-256, bound to the channel where both sides can.
    async fn scram(&mut self, body: &AuthenticationSaslBody) -> Result<Proof, WireError> {
        let mechanisms: Vec<String> = body
            .mechanisms()
            .map(|mechanism| Ok(mechanism.to_owned()))
            .collect()
            .map_err(|error| self.protocol(&error.to_string()))?;
        let (mechanism, binding) = self.choose(&mechanisms)?;
        let proof = match mechanism {
            SCRAM_SHA_256_PLUS => Proof::PasswordAndChannel,
            _ => Proof::Password,
        };
        let password = self.password()?;
        let mut scram = ScramSha256::new(&password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.output)
            .map_err(|error| self.protocol(&error.to_string()))?;
        self.send().await?;
        let Message::AuthenticationSaslContinue(body) = self.receive().await? else {
            return Err(self.protocol("the server broke off SCRAM after its first message"));
        };
        scram.update(body.data()).map_err(|error| self.problem(&format!("SCRAM: {error}")))?;
        frontend::sasl_response(scram.message(), &mut self.output)
            .map_err(|error| self.protocol(&error.to_string()))?;
        self.send().await?;
        let Message::AuthenticationSaslFinal(body) = self.receive().await? else {
            return Err(self.protocol("the server let us in without proving that it knows the password"));
        };
        scram.finish(body.data()).map_err(|error| {
            self.problem(&format!(
                "the server does not prove that it knows the password ({error}); is it the right one?"
            ))
        })?;
        Ok(proof)
    }

    /// The mechanism, and what SCRAM says about channel binding: a "could, but you do not offer it" lets the server
    /// notice that somebody took its offer away.
    fn choose(&self, offered: &[String]) -> Result<(&'static str, ChannelBinding), WireError> {
        let offers = |mechanism: &str| offered.iter().any(|offer| offer == mechanism);
        let mode = self.info.channel_binding();
        match &self.end_point {
            EndPoint::Hash(hash) if mode != ChannelBindingMode::Disable && offers(SCRAM_SHA_256_PLUS) => {
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())))
            }
            _ if mode == ChannelBindingMode::Require => Err(self.problem(match &self.end_point {
                EndPoint::Plain => "channel_binding=require needs TLS, and this connection has none",
                EndPoint::NoHash => {
                    "channel_binding=require, and the signature of the server's certificate has no hash to bind to; \
                     give the server a certificate signed with RSA or ECDSA and SHA-256"
                }
                EndPoint::Hash(_) => "channel_binding=require, and the server does not offer SCRAM-SHA-256-PLUS",
            })),
            EndPoint::Plain if offers(SCRAM_SHA_256_PLUS) => {
                Err(self.problem("the server offers channel binding without TLS: somebody may be in between"))
            }
            end_point if offers(SCRAM_SHA_256) => match end_point {
                EndPoint::Hash(_) if mode != ChannelBindingMode::Disable => {
                    Ok((SCRAM_SHA_256, ChannelBinding::unrequested()))
                }
                _ => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
            },
            _ => Err(self.problem(&format!(
                "the server offers {} only; let pg_hba.conf ask this role for scram-sha-256 or a certificate",
                offered.join(", ")
            ))),
        }
    }

    /// Everything after the login up to the first ReadyForQuery.
    async fn greeting(&mut self) -> Result<Greeting, WireError> {
        let mut parameters = BTreeMap::new();
        let (mut process_id, mut secret_key) = (0, 0);
        loop {
            match self.receive().await? {
                Message::ParameterStatus(body) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Message::BackendKeyData(body) => (process_id, secret_key) = (body.process_id(), body.secret_key()),
                Message::ReadyForQuery(body) => {
                    let status = TransactionStatus::read(body.status())?;
                    return Ok(Greeting { parameters, process_id, secret_key, status });
                }
                _ => return Err(self.protocol("an unexpected message after the login")),
            }
        }
    }

    fn problem(&self, problem: &str) -> WireError {
        WireError::Auth { target: self.target.clone(), problem: problem.to_owned() }
    }

    fn protocol(&self, problem: &str) -> WireError {
        WireError::Protocol(format!("{}: {problem}", self.target))
    }

    /// The server's refusal with what to do about it.
    fn refused(&self, error: ServerError) -> WireError {
        let user = self.info.user();
        let advice = match error.code.as_str() {
            "28P01" => match &self.password {
                Some(password) => format!("the password came from {}", password.source),
                None => format!("check the password of the role {user}"),
            },
            "28000" => format!(
                "let the server's pg_hba.conf admit this connection, and see that the role {user} exists and may log \
                 in (ALTER ROLE ... LOGIN)"
            ),
            "42501" => format!("a session that replicates needs ALTER ROLE \"{user}\" REPLICATION"),
            "3D000" => "create the database, or correct dbname=".to_owned(),
            "53300" => "raise the server's max_connections or max_wal_senders if this does not pass".to_owned(),
            _ => String::new(),
        };
        WireError::Refused { target: self.target.clone(), error: Box::new(error), advice }
    }
}
