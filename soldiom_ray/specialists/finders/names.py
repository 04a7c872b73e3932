"""Ends of names: top-level domains, and the endings of files an examination meets."""


def words(table: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(table.split())


def names_of(table: str) -> frozenset[str]:
    """The names of a table, which may have spaces, between bars."""
    return frozenset(table.split("|"))


COUNTRY_DOMAINS = words(
    """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb be bf bg bh bi bj bm bn bo br bs bt bv bw by bz ca cc cd cf
    cg ch ci cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg es et eu fi fj fm fo fr ga gb gd ge gf gg gh gi
    gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jo jp ke kg ki km kn kp kr kw ky
    kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni
    nl no nr nu nz om pa pe pf ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so
    sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws
    ye yt zm zw
    """
)
GENERIC_DOMAINS = words(
    """
    com org net edu gov mil int arpa info biz name pro aero asia cat coop jobs mobi museum post tel travel xxx
    academy agency app art auction bank bar beauty berlin best bid biz blog buzz cafe cam capital cards care cash casa
    center chat church city click cloud club codes company cool cyou data date dev digital direct download email energy
    engineer exchange expert express faith family fans finance fit foundation fun fund fyi games gdn gift global gmbh
    group guru hair health help homes host hospital hosting house icu ink institute international kim land law legal
    life link live loan lol london love ltd market marketing media men money monster mom network news ninja one online
    ooo page paris partners party photo photos pics pictures place plus press properties pub quest racing realty
    recipes rehab rent rest review reviews rip rocks run sale sbs school science security services sex shop site skin
    social software solutions space store stream studio style support surf systems team tech technology tickets today
    tokyo tools top tours town toys trade trading training uno university video vip wang watch website wiki win wine
    work works world wtf xin xyz yachts yokohama zip zone onion bit eth
    """
)
INTERNAL_DOMAINS = words("local localdomain lan internal intranet corp home example test invalid")
TOP_LEVEL_DOMAINS = COUNTRY_DOMAINS | GENERIC_DOMAINS | INTERNAL_DOMAINS

FILE_ENDINGS = words(
    """
    exe dll sys drv ocx cpl scr pif com bat cmd ps1 psm1 psd1 vbs vbe vba js jse wsf wsh hta msi msp msix appx lnk url
    chm inf reg jar class war apk ipa dex elf so ko dylib app dmg pkg deb rpm sh bash zsh py pyc pyw pl rb php phtml jsp
    jspx asp aspx ashx asmx cgi htm html mht xml json yaml yml toml ini conf cfg config log txt md csv tsv rtf doc docx
    docm dot dotm dotx xls xlsx xlsm xlsb xlam xll xlt ppt pptx pptm ppsx pps pub pdf odt ods odp one onepkg eml msg pst
    ost mbox zip rar 7z tar gz tgz bz2 xz zst cab iso img vhd vhdx vmdk ova qcow2 dmp mdmp bin dat db sqlite sqlite3 mdb
    accdb edb dit evtx evt etl pcap pcapng cap png jpg jpeg gif bmp ico tif tiff webp svg mp3 mp4 avi mov mkv wav key
    pem crt cer pfx p12 ovpn rdp kdbx bak old tmp temp swp lock pf job manifest mui resx cs cpp hpp go rs java swift ts
    vbproj csproj sln xsl xsd asar wim nupkg whl plist mobileconfig torrent kirbi ccache sqlitedb ldf mdf
    """
)
ENDINGS_BEFORE_DOMAINS = words("sh py pl rs md zip mov ps so cc pub cab")
"""Top-level domains that are read as the ending of a file, unless the name is written with its dots disarmed."""
