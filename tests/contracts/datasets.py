"""Small files in the layout of each data set, made up here, and what every data set keeps.

A data set that ships with the package needs none; another one adds its files under its name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simlab.datasets.frame import Frame
from simlab.datasets.kuairand import KuaiRand
from simlab.datasets.kuairec import KuaiRec
from simlab.datasets.lastfm import LastFM
from simlab.datasets.movielens import MovieLens
from simlab.datasets.recbole import RecBole


def lines(path: Path, *rows: str, encoding: str = "utf8") -> None:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding)


def movielens(root: Path) -> MovieLens:
    """Three users, four films (nobody rated film 3); two ratings of user 2 share a time."""
    lines(root / "u.data", "2\t10\t4\t500", "1\t7\t5\t100", "2\t7\t1\t300", "2\t1\t3\t300", "3\t10\t2\t50")
    flags = {"7": (5, 8), "10": (0,), "1": (18,), "3": ()}
    film = [
        f"{i}|Film \xe9 {i} (19{90 + k})|01-Jan-19{90 + k}||http://x|"
        + "|".join("1" if g in ones else "0" for g in range(19))
        for k, (i, ones) in enumerate(flags.items())
    ]
    film[3] = film[3].replace("01-Jan-1993", "")
    lines(root / "u.item", *film, encoding="latin-1")
    lines(root / "u.user", "1|24|M|writer|85711", "2|17|F|other|94043", "3|56|F|writer|V3N4P")
    return MovieLens(root=root)


def movielens_1m(root: Path) -> MovieLens:
    """Two users, three films."""
    lines(root / "ratings.dat", "1::1193::5::978300760", "1::661::3::978302109", "2::1193::4::978298413")
    lines(root / "users.dat", "1::F::1::10::48067", "2::M::56::16::70072")
    lines(
        root / "movies.dat",
        "661::Caf\xe9: the Film (1996)::Animation|Children's",
        "1193::Another (1975)::Drama",
        "2::Nobody Saw It::Drama|Comedy",
        encoding="latin-1",
    )
    return MovieLens("1m", root)


def recbole(root: Path) -> RecBole:
    """Every type of column."""
    lines(
        root / "tiny.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tdevice:token\tprice:float",
        "u2\ti1\t4\t30\tphone\t1.5",
        "u1\ti3\t2\t20\tdesk\t2.5",
        "u2\ti3\t5\t10\t\t3.5",
    )
    lines(
        root / "tiny.item",
        "item_id:token\tbrand:token\twords:token_seq\tweight:float\tpicture:float_seq",
        "i3\tacme\tred small\t0.5\t1 2",
        'i1\t\tblue "red"\t0.25\t3 4',
        "i2\tzeta\t\t0.75\t5 6",
    )
    lines(
        root / "tiny.user", "user_id:token\tage:float\tcity:token", "u1\t30\tRome", "u2\t40\t", "u3\t50\tOslo"
    )
    return RecBole(name="tiny", root=root)


def lastfm(root: Path) -> LastFM:
    """Two users, three artists (nobody listened to 6), a friend without plays."""
    lines(root / "user_artists.dat", "userID\tartistID\tweight", "2\t51\t13883", "2\t52\t11690", "10\t51\t3")
    lines(
        root / "artists.dat",
        "id\tname\turl\tpictureURL",
        '6\tThe "A\tx\ty',
        "51\tB\u00e9\tx\ty",
        "52\tC\tx\ty",
    )
    lines(root / "user_friends.dat", "userID\tfriendID", "2\t10", "10\t2", "2\t99")
    return LastFM(root=root)


_USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,"
    "register_days,register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)


def _kuai_users(path: Path) -> None:
    def row(user: int, degree: str, gap: str) -> str:
        return f'{user},{degree},0,0,1,5,"(0,10]",0,0,0,0,107,61-90,' + ",".join(["1"] * 17 + [gap])

    lines(path, _USER, row(14, "high_active", ""), row(0, "full_active", "3"), row(7, "UNKNOWN", "2"))


def kuairec(root: Path) -> KuaiRec:
    """The big part has four rows, the small one two, one of them without a time."""
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    when = "2020-07-05 05:27:48.378,20200705"
    lines(
        root / "data/big_matrix.csv",
        header,
        f"14,149,6067,6067,{when},1593898068.378,1.0",
        f"14,183,20000,10000,{when},1593898000.5,2.0",
        f"0,149,0,6067,{when},1593898068.378,0.0",
        f"0,3,30000,10000,{when},1593898068.5,3.0",
    )
    lines(
        root / "data/small_matrix.csv",
        header,
        "14,149,6067,6067,,,,1.0",
        f"14,183,20000,10000,{when},1593898000.5,2.0",
    )
    lines(root / "data/item_categories.csv", "video_id,feat", "149,[8]", '183,"[27, 9]"', "3,[9]", "5,[8]")
    _kuai_users(root / "data/user_features.csv")
    return KuaiRec(root=root)


def kuairand(root: Path) -> KuaiRand:
    """Two files of the standard log and one of the random log."""
    header = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
    )
    tail = "2500,5000,0,0,0"
    data = root / "data"
    lines(
        data / "log_standard_4_08_to_4_21_pure.csv",
        header,
        f"14,3,20220408,0,1649347200123,1,1,0,0,0,0,1,{tail},0,1",
        f"0,5,20220408,2359,1649433540000,0,0,0,0,0,1,0,{tail},0,14",
    )
    lines(
        data / "log_standard_4_22_to_5_08_pure.csv",
        header,
        f"14,5,20220422,930,1650591000000,1,0,1,0,0,0,0,{tail},0,0",
    )
    lines(
        data / "log_random_4_22_to_5_08_pure.csv",
        header,
        f"0,9,20220422,1000,1650592800000,0,0,0,0,0,0,0,{tail},1,1",
        f"14,3,20220422,1000,1650592800000,1,0,0,0,0,0,0,{tail},1,1",
    )
    lines(
        data / "video_features_basic_pure.csv",
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
        "server_height,music_id,music_type,tag",
        "3,1,NORMAL,2022-03-01,ShortImport,1.0,,720,1280,2,9.0,12",
        '5,1,AD,2022-03-01,LongImport,1.0,5000.0,720,1280,2,,"3,12"',
        "9,2,NORMAL,2022-03-01,ShortImport,1.0,5000.0,720,1280,2,4.0,",
        "11,2,NORMAL,2022-03-01,ShortImport,1.0,5000.0,720,1280,2,4.0,8",
    )
    _kuai_users(data / "user_features_pure.csv")
    return KuaiRand(root=root)


def frame(root: Path) -> Frame:
    """A CSV file."""
    lines(root / "t.csv", "user,item,time", "ana,b,2020-01-02", "ana,a,2020-01-01", "bob,b,2020-01-01")
    return Frame(root / "t.csv")


SAMPLES: dict[str, Callable[[Path], Any]] = {
    "frame": frame,
    "kuairand": kuairand,
    "kuairec": kuairec,
    "lastfm": lastfm,
    "movielens": movielens,
    "recbole": recbole,
}
"""What writes the files of a data set that does not ship with the package, by its name."""
