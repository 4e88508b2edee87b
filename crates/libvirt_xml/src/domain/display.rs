//! What a person in front of the guest sees, hears and touches: graphics, video, input, sound.
//!
//! Refused: VirtualBox's, Xen's and DBus's displays. Kept: SPICE's settings of compression and channels, details of audio backends.

use super::address::{DeviceInfo, VirtioDriver};
use crate::model::model;
use crate::tree::Kept;
use crate::value::{OnOff, YesNo, words};

words! {
    /// Kinds of displays.
    pub enum GraphicsType {
        Vnc = "vnc",
        Spice = "spice",
        Sdl = "sdl",
        EglHeadless = "egl-headless",
    }
    refused "rdp", "desktop", "dbus";

    /// Where a display listens.
    pub enum ListenType { Address = "address", Network = "network", Socket = "socket", None = "none", }

    /// What happens to another client when one comes.
    pub enum SharePolicy {
        AllowExclusive = "allow-exclusive",
        ForceShared = "force-shared",
        Ignore = "ignore",
    }

    /// What happens to clients when the password changes.
    pub enum ConnectedPolicy { Keep = "keep", Disconnect = "disconnect", Fail = "fail", }

    /// Default security of SPICE channels.
    pub enum ChannelMode { Any = "any", Secure = "secure", Insecure = "insecure", }
}

model! {
    /// Where a display listens.
    pub struct Listen {
        /// How.
        kind: required("type") => ListenType,
        /// Address.
        address: attribute("address") => Option<String>,
        /// Network whose address it is.
        network: attribute("network") => Option<String>,
        /// Path of a unix socket.
        socket: attribute("socket") => Option<String>,
    }

    /// Rendering by the host's graphics processor.
    pub struct GraphicsGl {
        /// Whether.
        enable: attribute("enable") => Option<YesNo>,
        /// Device node.
        rendernode: attribute("rendernode") => Option<String>,
    }

    /// The audio backend that a device uses.
    pub struct AudioReference {
        /// Its number.
        id: required("id") => u32,
    }

    /// A display.
    pub struct Graphics {
        /// Kind.
        kind: required("type") => GraphicsType,
        /// Path of a unix socket.
        socket: attribute("socket") => Option<String>,
        /// TCP port; -1 asks for a free one.
        port: attribute("port") => Option<i32>,
        /// TCP port with TLS; -1 asks for a free one.
        tls_port: attribute("tlsPort") => Option<i32>,
        /// Whether ports are chosen at start.
        autoport: attribute("autoport") => Option<YesNo>,
        /// TCP port of websockets; -1 asks for a free one.
        websocket: attribute("websocket") => Option<i32>,
        /// Address; the same as that of the first listen element.
        listen: attribute("listen") => Option<String>,
        /// Keyboard layout.
        keymap: attribute("keymap") => Option<String>,
        /// Several clients.
        share_policy: attribute("sharePolicy") => Option<SharePolicy>,
        /// Whether clients can power off.
        power_control: attribute("powerControl") => Option<YesNo>,
        /// Of SPICE.
        default_mode: attribute("defaultMode") => Option<ChannelMode>,
        /// X display of SDL.
        display: attribute("display") => Option<String>,
        /// X authority of SDL.
        xauth: attribute("xauth") => Option<String>,
        /// Of SDL.
        fullscreen: attribute("fullscreen") => Option<YesNo>,
        /// Password: a secret, see [`super::Domain::without_secrets`].
        password: attribute("passwd") => Option<String>,
        /// When it ends, UTC, as in `2026-01-31T12:00:00`.
        password_valid_to: attribute("passwdValidTo") => Option<String>,
        /// When the password changes.
        connected: attribute("connected") => Option<ConnectedPolicy>,
        /// Where it listens.
        listens: children("listen") => Vec<Listen>,
        /// SPICE's settings.
        spice: kept(
            "channel", "image", "jpeg", "zlib", "playback", "streaming", "mouse", "clipboard", "filetransfer"
        ) => Kept,
        /// Rendering.
        gl: child("gl") => Option<GraphicsGl>,
        /// Sound.
        audio: child("audio") => Option<AudioReference>,
    }
}

words! {
    /// What the guest sees of a graphics card.
    pub enum VideoType {
        Vga = "vga",
        Virtio = "virtio",
        Qxl = "qxl",
        Bochs = "bochs",
        Cirrus = "cirrus",
        Ramfb = "ramfb",
        Vmvga = "vmvga",
        None = "none",
    }
    refused "xen", "vbox", "parallels", "gop", "default";

    /// What serves it.
    pub enum VideoBackend { Qemu = "qemu", }
    refused "vhostuser";
}

model! {
    /// Acceleration.
    pub struct VideoAcceleration {
        /// 3D.
        accel3d: attribute("accel3d") => Option<YesNo>,
        /// 2D.
        accel2d: attribute("accel2d") => Option<YesNo>,
        /// Device node.
        rendernode: attribute("rendernode") => Option<String>,
    }

    /// Size of the screen.
    pub struct VideoResolution {
        /// Pixels.
        x: required("x") => u32,
        /// Pixels.
        y: required("y") => u32,
    }

    /// What the guest sees.
    pub struct VideoModel {
        /// Kind.
        kind: required("type") => VideoType,
        /// Primary memory of QXL, KiB.
        ram: attribute("ram") => Option<u32>,
        /// Memory, KiB.
        vram: attribute("vram") => Option<u32>,
        /// 64-bit memory of QXL, KiB.
        vram64: attribute("vram64") => Option<u32>,
        /// VGA memory of QXL, KiB.
        vgamem: attribute("vgamem") => Option<u32>,
        /// Screens.
        heads: attribute("heads") => Option<u32>,
        /// The one that firmware uses.
        primary: attribute("primary") => Option<YesNo>,
        /// Shared resources.
        blob: attribute("blob") => Option<OnOff>,
        /// Acceleration.
        acceleration: child("acceleration") => Option<VideoAcceleration>,
        /// Size of the screen.
        resolution: child("resolution") => Option<VideoResolution>,
    }

    /// What serves a graphics card.
    pub struct VideoDriver {
        /// Which.
        name: attribute("name") => Option<VideoBackend>,
        /// Virtio's switches.
        virtio: part => super::address::VirtioOptions,
    }

    /// A graphics card.
    pub struct Video {
        /// What serves it.
        driver: child("driver") => Option<VideoDriver>,
        /// What the guest sees.
        model: child("model") => Option<VideoModel>,
        /// Alias, address.
        info: part => DeviceInfo,
    }
}

words! {
    /// What a person touches.
    pub enum InputType {
        Mouse = "mouse",
        Tablet = "tablet",
        Keyboard = "keyboard",
        Passthrough = "passthrough",
        Evdev = "evdev",
    }

    /// What it is connected to.
    pub enum InputBus { Ps2 = "ps2", Usb = "usb", Virtio = "virtio", }
    refused "xen", "parallels", "none";

    /// What else is taken together with a device.
    pub enum InputGrab { All = "all", }

    /// Keys that take and release it.
    pub enum InputGrabToggle {
        CtrlCtrl = "ctrl-ctrl",
        AltAlt = "alt-alt",
        ShiftShift = "shift-shift",
        MetaMeta = "meta-meta",
        Scrolllock = "scrolllock",
        CtrlScrolllock = "ctrl-scrolllock",
    }
}

model! {
    /// An input device of the host.
    pub struct InputSource {
        /// Of evdev inputs: device node.
        dev: attribute("dev") => Option<String>,
        /// Of virtio pass-through: device node.
        evdev: attribute("evdev") => Option<String>,
        /// What else is taken.
        grab: attribute("grab") => Option<InputGrab>,
        /// Keys that take and release it.
        grab_toggle: attribute("grabToggle") => Option<InputGrabToggle>,
        /// Repetition of keys.
        repeat: attribute("repeat") => Option<OnOff>,
    }

    /// A keyboard, mouse or tablet.
    pub struct Input {
        /// Kind.
        kind: required("type") => InputType,
        /// What it is connected to.
        bus: attribute("bus") => Option<InputBus>,
        /// Variant of the virtio device.
        model: attribute("model") => Option<super::disk::VirtioModel>,
        /// Virtio's switches.
        driver: child("driver") => Option<VirtioDriver>,
        /// A device of the host.
        source: child("source") => Option<InputSource>,
        /// Alias, address.
        info: part => DeviceInfo,
    }
}

words! {
    /// Sound cards.
    pub enum SoundModel {
        Ich9 = "ich9",
        Ich6 = "ich6",
        Ich7 = "ich7",
        Ac97 = "ac97",
        Es1370 = "es1370",
        Sb16 = "sb16",
        Pcspk = "pcspk",
        Usb = "usb",
        Virtio = "virtio",
    }

    /// Codecs of a sound card.
    pub enum SoundCodecType { Duplex = "duplex", Micro = "micro", Output = "output", }

    /// Where sound goes on the host.
    pub enum AudioType {
        None = "none",
        Alsa = "alsa",
        Coreaudio = "coreaudio",
        Jack = "jack",
        Oss = "oss",
        Pulseaudio = "pulseaudio",
        Pipewire = "pipewire",
        Sdl = "sdl",
        Spice = "spice",
        File = "file",
    }
    refused "dbus";
}

model! {
    /// A codec of a sound card.
    pub struct SoundCodec {
        /// Kind.
        kind: required("type") => SoundCodecType,
    }

    /// A sound card.
    pub struct Sound {
        /// Model.
        model: required("model") => SoundModel,
        /// Codecs.
        codecs: children("codec") => Vec<SoundCodec>,
        /// Where its sound goes.
        audio: child("audio") => Option<AudioReference>,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// Where sound goes on the host.
    pub struct Audio {
        /// Its number.
        id: required("id") => u32,
        /// Kind.
        kind: required("type") => AudioType,
        /// Microseconds.
        timer_period: attribute("timerPeriod") => Option<u32>,
        /// Of OSS.
        try_mmap: attribute("tryMMap") => Option<YesNo>,
        /// Of OSS.
        exclusive: attribute("exclusive") => Option<YesNo>,
        /// Of OSS.
        dsp_policy: attribute("dspPolicy") => Option<i32>,
        /// Of PulseAudio.
        server_name: attribute("serverName") => Option<String>,
        /// Of PipeWire.
        runtime_dir: attribute("runtimeDir") => Option<String>,
        /// Of SDL.
        driver: attribute("driver") => Option<String>,
        /// Of files.
        path: attribute("path") => Option<String>,
        /// Settings of each direction.
        settings: kept("input", "output") => Kept,
    }
}
