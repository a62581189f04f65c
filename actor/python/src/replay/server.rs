//! A replay server in this process: the product's own, on threads of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use pmpo_replay::{ReplayConfig, ReplayError};
use pmpo_service::grpc::Listener;
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::replay::error;
use crate::replay::process::{Deadline, OfProcess, wait};

/// A replay server in this process, on threads of its own that Python does not hold up.
///
/// It serves from here on; `stop` ends it, as does the end of a `with`. Clients may be anywhere that reaches it. A
/// process that is forked meanwhile cannot use it, and keeps its port taken.
///
/// Args:
///     tables: `Table`s with different names, at least one.
///     port: to listen on; None: one that is free.
///     host: the address to listen on; beyond this machine only with `tls_ca` or `token_file`, or `insecure`.
///     data_dir: a folder in which the tables outlive the process; None: they are in memory.
///     config: further keys of the section `[replay]`, for instance `{"disk": {"fsync": "each_batch"}}`.
///     seed: of the draws.
///     tls_cert, tls_key: certificate and key (PEM); connections are TLS then.
///     tls_ca: certificates (PEM) of the CA whose clients alone are let in.
///     token_file: lines `role token`; a client has to show one.
///     insecure: listen beyond this machine although nothing keeps strangers out.
///
/// Raises:
///     ValueError: a configuration that contradicts itself.
///     ReplayError: the port or the folder cannot be used.
#[pyclass(module = "pmpo.replay", frozen)]
pub(crate) struct Server(OfProcess<Running>);

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    thread: Mutex<Option<JoinHandle<Result<(), ReplayError>>>>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        tables, port=None, data_dir=None, *, host="127.0.0.1", config=None, seed=0, tls_cert=None, tls_key=None,
        tls_ca=None, token_file=None, insecure=false
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        py: Python<'_>,
        tables: &Bound<'_, PyAny>,
        port: Option<u16>,
        data_dir: Option<PathBuf>,
        host: &str,
        config: Option<&Bound<'_, PyDict>>,
        seed: u64,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        tls_ca: Option<PathBuf>,
        token_file: Option<PathBuf>,
        insecure: bool,
    ) -> PyResult<Self> {
        let json = py.import("pmpo.replay")?.getattr("_configuration")?;
        let json: String = json.call1((tables, config))?.extract()?;
        let mut config: ReplayConfig = serde_json::from_str(&json).map_err(refused)?;
        config.data_dir = data_dir.or(config.data_dir);
        config.seed = seed;
        config.validate().map_err(refused)?;
        let host: IpAddr = host
            .parse()
            .map_err(|_| refused(format!("host: expected an address of IP, got `{host}`")))?;
        let security = SecurityConfig {
            tls_cert,
            tls_key,
            tls_ca,
            token_file,
            insecure,
            ..SecurityConfig::default()
        };
        let credentials = Credentials::load(&security, Role::Replay).map_err(refused)?;
        let address = SocketAddr::new(host, port.unwrap_or(0));
        Running::start(py, config, address, credentials)
            .map(|running| Self(OfProcess::new("Server", running)))
    }

    /// "host:port", for clients.
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.0.get(py)?.address.to_string())
    }

    /// The port it listens on.
    #[getter]
    fn port(&self, py: Python<'_>) -> PyResult<u16> {
        Ok(self.0.get(py)?.address.port())
    }

    /// Stops serving and closes the tables; may be called again.
    ///
    /// Raises:
    ///     ReplayError: it had ended before, and why; for instance a disk was full.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let running = self.0.get(py)?;
        running.shutdown.cancel();
        let ended = py.detach(|| running.join());
        ended.map_err(|message| error::failed(py, &message))
    }

    /// Waits until it ends, for instance by an interrupt.
    ///
    /// Args:
    ///     timeout: seconds; None: for ever.
    ///
    /// Returns:
    ///     Whether it has ended.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let running = self.0.get(py)?;
        let ended = wait(py, Deadline::after(timeout)?, |slice| {
            if running.ended() {
                return running.join().map(Some);
            }
            thread::sleep(slice);
            Ok(None)
        })?;
        match ended {
            Ok(ended) => Ok(ended.is_some()),
            Err(message) => Err(error::failed(py, &message)),
        }
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.stop(py)
    }
}

impl Running {
    fn start(
        py: Python<'_>,
        config: ReplayConfig,
        address: SocketAddr,
        credentials: Credentials,
    ) -> PyResult<Self> {
        let shutdown = CancellationToken::new();
        let (opened, is_open) = oneshot::channel();
        let token = shutdown.clone();
        let serve = move || -> Result<(), ReplayError> {
            let runtime = Builder::new_multi_thread()
                .thread_name("pmpo-replay-server")
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = match Listener::bind(address, &credentials).await {
                    Ok(listener) => listener,
                    Err(error) => {
                        drop(opened.send(Err(error.to_string())));
                        return Ok(());
                    }
                };
                let address = listener.local_addr()?;
                let open = || drop(opened.send(Ok(address)));
                pmpo_replay::run_and_tell(config, listener, token, open).await
            })
        };
        let thread = thread::Builder::new().name("pmpo-replay-server".to_owned());
        let thread = thread.spawn(serve)?;
        match py.detach(|| is_open.blocking_recv()) {
            Ok(Ok(address)) => Ok(Self {
                address,
                shutdown,
                thread: Mutex::new(Some(thread)),
            }),
            Ok(Err(message)) => Err(error::failed(py, &message)),
            // It has ended before its tables were open.
            Err(_) => Err(error::failed(py, &py.detach(|| why(thread)))),
        }
    }

    fn ended(&self) -> bool {
        self.lock().as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end; only the first caller hears how it was.
    fn join(&self) -> Result<(), String> {
        match self.lock().take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(error.to_string()),
            Some(Err(_)) => Err(PANICKED.to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinHandle<Result<(), ReplayError>>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PANICKED: &str = "the server's thread has panicked";

impl Drop for Running {
    /// What was acknowledged is safe; its threads end by themselves.
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// How a thread that was to serve has ended.
fn why(thread: JoinHandle<Result<(), ReplayError>>) -> String {
    match thread.join() {
        Ok(Ok(())) => "the server has ended".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => PANICKED.to_owned(),
    }
}

fn refused(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}
